//! Kernels over tensors of burn's CubeCL backends: one source for CUDA and wgpu.

mod decode;
#[allow(dead_code, reason = "tested, and not called by the layers yet")]
mod decode_attention;
mod door;
mod product;
#[allow(dead_code, reason = "tested, and not called by the layers yet")]
mod router;
mod row_product;
mod stream;
#[cfg(test)]
mod tests;
mod unpack;

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;

use crate::quant::Packing;

pub(super) use door::{Door, float, int, is_cube, is_fused, strided, wrap};
pub(super) use product::exact_product;
pub(super) use row_product::{Weights, row_product};
pub(super) use stream::partial_sums;
pub(super) use unpack::{Rows, unpack};

/// A packed weight whose words are on a CubeCL device.
pub(super) struct PackedRows<R: CubeRuntime> {
    pub(super) packing: Packing,
    /// Values of a row.
    pub(super) columns: usize,
    /// `[rows, words]`, contiguous.
    pub(super) words: CubeTensor<R>,
    /// `[rows, scale words]`, contiguous.
    pub(super) scales: Option<CubeTensor<R>>,
}

impl<R: CubeRuntime> PackedRows<R> {
    /// The scales, or, where the packing has none, something to bind in their place.
    fn bound_scales(&self) -> &CubeTensor<R> {
        self.scales.as_ref().unwrap_or(&self.words)
    }
}

/// Cubes along two axes, at least `count` in all: an axis alone has room for 65,535.
fn cube_count(count: usize) -> cubecl::CubeCount {
    let width = count.clamp(1, 65_535);
    cubecl::CubeCount::Static(width as u32, count.div_ceil(width).max(1) as u32, 1)
}

/// Says that a kernel ran instead of the plain definition, or that it could not be launched and the definition runs.
fn ran(operation: &'static str, launched: bool) -> bool {
    match launched {
        true => tracing::trace!(target: "llama4::kernels", operation, "CubeCL kernel"),
        false => tracing::warn!(target: "llama4::kernels", operation, "the CubeCL kernel cannot be launched here"),
    }
    launched
}
