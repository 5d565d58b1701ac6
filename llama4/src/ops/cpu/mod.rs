//! Kernels over burn-ndarray's tensors.

mod dot;
mod packed;
mod row_product;

pub(super) use dot::instructions;
pub(super) use packed::{PackedRows, packed_row_product, unpack_rows};
pub(super) use row_product::row_product;
