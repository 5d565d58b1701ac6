//! Operations on burn-ndarray's tensors, by the kernels of [`kernels`].
//!
//! Every function gives `None` where a tensor is not `f32` or does not lie in one piece; the plain definition then takes over.

mod attention;
mod kernels;
mod packed;
mod pages;
mod pointwise;
mod product;
#[cfg(test)]
mod tests;
mod token;

use burn_ndarray::{NdArrayTensor, SharedArray};

pub(super) use attention::{cached_attention, fresh_attention};
pub(super) use kernels::{Level, with_exact_activations};
pub(super) use packed::{PackedRows, packed_product, unpack_rows};
pub(super) use pages::enlarge;
pub(super) use pointwise::{position_heads, rms_norm, select_rows, swiglu, swiglu_halves};
pub(super) use product::product;
pub(super) use token::{Experts, add_linear, normed_linears, normed_swiglu};

/// A tensor of floats that a kernel fills.
fn tensor(shape: Vec<usize>, fill: impl FnOnce(&mut [f32])) -> Option<NdArrayTensor> {
    let mut values = vec![0.0_f32; shape.iter().product()];
    fill(&mut values);
    Some(SharedArray::from_shape_vec(shape, values).ok()?.into())
}

/// The values of a tensor of `f32` that lies in one piece, row by row, as `$name`; or leave with `None`.
macro_rules! floats {
    ($($name:ident),*) => {
        $(
            let burn_ndarray::NdArrayTensor::F32(storage) = $name else { return None };
            let $name = storage.view();
            let $name = $name.as_slice()?;
        )*
    };
}

use floats;
