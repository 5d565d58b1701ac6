//! The one place of the examples that names a backend: what they do is generic. `burn_wgpu::Wgpu` or `burn_cuda::Cuda` stand here as well.

/// What the examples compute on.
pub(crate) type Backend = burn_ndarray::NdArray<f32>;
