//! Kernels over burn-ndarray's tensors.

mod dot;
mod row_product;

pub(super) use dot::instructions;
pub(super) use row_product::row_product;
