//! Kernels over slices: what the processor does, without a word about tensors.

#![allow(clippy::needless_range_loop, reason = "registers are counted, so that the compiler keeps them out of memory")]

mod activations;
mod attention;
mod block_dot;
mod dot;
mod foresight;
mod half;
mod lanes;
mod level;
mod lines;
mod matrix;
mod panel;
mod pointwise;
mod pool;
mod product;
mod rounding;
mod share;
#[cfg(test)]
mod testing;
mod tile;
mod tiles;
mod token;
mod transpose;

pub(super) use attention::{Queries, Stored, attention};
pub(in crate::ops) use level::Level;
pub(super) use matrix::Matrix;
pub(super) use pointwise::{Heads, heads, rms_norm, select_rows, swiglu};
pub(super) use pool::Pool;
pub(super) use product::product;
pub(in crate::ops) use product::with_exact_activations;
pub(super) use token::{Expert, Norm, add_products, normed_products, normed_swiglu};

/// Whether products of many rows with weights of this packing round activations too, as those of few do.
#[cfg(test)]
pub(super) fn rounds_many(packing: crate::quant::Packing) -> bool {
    tile::Form::of(Level::current(), Some(packing)) != tile::Form::Floats
}

/// Threads that share the work.
fn threads() -> usize {
    rayon::current_num_threads()
}
