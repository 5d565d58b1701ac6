//! What a program can compute on: the one place, besides the kernels' own dispatch, that names a backend.
//!
//! Backends are features of the build. With several, [`Target::choose`] takes the one that was asked for, else the fastest that starts.
//! What computes is a [`Task`], generic over the backend, and is compiled once for each backend of the build.

mod adapter;
mod allocator;
mod args;
mod kind;
mod precision;
mod start;
mod target;

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "ndarray")]
mod host;
#[cfg(feature = "cuda")]
mod kernel_cache;
#[cfg(any(feature = "ndarray", feature = "wgpu"))]
mod memory;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod nvidia;
#[cfg(feature = "wgpu")]
mod webgpu;

pub use adapter::Adapter;
pub use args::{BackendArgs, Bits, Float, FloatArgs, QuantizeArgs, Storage};
pub use kind::BackendKind;
pub use precision::Precision;
#[cfg(feature = "train")]
pub use target::TrainTask;
pub use target::{Target, Task};

#[cfg(not(any(feature = "cuda", feature = "wgpu", feature = "ndarray")))]
compile_error!(
    "there is nothing to compute on: enable the feature `ndarray` (the CPU, on by default), `wgpu` (GPUs through WGSL), \
     `vulkan` (GPUs through SPIR-V) or `cuda` (NVIDIA GPUs)"
);
