//! Kernels over tensors of burn's CubeCL backends: one source for CUDA and wgpu.

mod argmax;
mod args;
mod block_attention;
mod decode;
mod decode_attention;
mod door;
mod gate;
mod grouped_product;
mod heads;
mod launch;
mod norm;
mod product;
mod read;
mod reduce;
mod routed;
mod router;
mod row_product;
mod row_tiles;
mod staged_product;
mod stream;
#[cfg(test)]
mod tests;
mod thin_product;
mod tile_product;
mod unpack;
mod values;

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;

use crate::quant::Packing;

pub(super) use argmax::argmax;
pub(super) use args::is_wgpu;
pub(super) use block_attention::{cached_attention, fresh_attention};
pub(super) use decode_attention::{Heads, Places, decode_attention};
pub(super) use door::{Door, float, int, is_cube, is_fused, owned, strided, wrap, wrap_int};
pub(super) use gate::{swiglu, swiglu_halves};
pub(super) use grouped_product::grouped_product;
pub(super) use heads::{Steps, position_heads};
pub(super) use norm::rms_norm;
pub(super) use product::{exact_product, product_into};
pub(super) use read::read_during;
pub(super) use routed::{ExpertGroup, routed_experts};
pub(super) use router::router_logits;
pub(super) use row_product::{Chosen, Norm, Weights, down, fuses_tokens, gated, normed_rows};
pub(super) use stream::partial_sums;
pub(super) use thin_product::thin_product;
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

/// Multiprocessors of a device, by which work is divided. wgpu does not say how many there are: work for more than those waits, work for fewer
/// would leave some without.
fn processors<R: CubeRuntime>(client: &cubecl::prelude::ComputeClient<R>) -> usize {
    client.properties().hardware.num_streaming_multiprocessors.unwrap_or(128) as usize
}

/// Cubes along two axes, at least `count` in all: an axis alone has room for 65,535.
fn cube_count(count: usize) -> cubecl::CubeCount {
    let width = count.clamp(1, 65_535);
    cubecl::CubeCount::Static(width as u32, count.div_ceil(width).max(1) as u32, 1)
}

/// Says that a kernel ran instead of the plain definition, or why it could not be launched, and that the definition runs.
fn ran<E: std::fmt::Debug>(operation: &'static str, launched: Result<(), E>) -> bool {
    match &launched {
        Ok(()) => tracing::trace!(target: "llama4::kernels", operation, "CubeCL kernel"),
        Err(error) => {
            tracing::warn!(target: "llama4::kernels", operation, ?error, "the CubeCL kernel cannot be launched here");
        }
    }
    launched.is_ok()
}
