use std::fmt;

use anyhow::Result;
use clap::ValueEnum;
use llama4::generate::prefill_piece;

use crate::Adapter;

/// The backends of this build, the fastest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackendKind {
    /// NVIDIA GPUs
    #[cfg(feature = "cuda")]
    Cuda,
    /// GPUs through Vulkan and SPIR-V
    #[cfg(feature = "vulkan")]
    Vulkan,
    /// GPUs of every make, through WGSL
    #[cfg(all(feature = "wgpu", not(feature = "vulkan")))]
    Wgpu,
    /// The CPU
    #[cfg(feature = "ndarray")]
    Ndarray,
}

impl BackendKind {
    /// As it is given on a command line.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda => "cuda",
            #[cfg(feature = "vulkan")]
            Self::Vulkan => "vulkan",
            #[cfg(all(feature = "wgpu", not(feature = "vulkan")))]
            Self::Wgpu => "wgpu",
            #[cfg(feature = "ndarray")]
            Self::Ndarray => "ndarray",
        }
    }

    /// The devices that it can run on, in the order in which they are numbered.
    ///
    /// # Errors
    /// When there is none, or the driver cannot be asked; the error says what to install or set.
    pub fn adapters(self) -> Result<Vec<Adapter>> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda => crate::cuda::adapters(),
            #[cfg(feature = "vulkan")]
            Self::Vulkan => crate::webgpu::adapters(),
            #[cfg(all(feature = "wgpu", not(feature = "vulkan")))]
            Self::Wgpu => crate::webgpu::adapters(),
            #[cfg(feature = "ndarray")]
            Self::Ndarray => Ok(vec![crate::host::adapter()]),
        }
    }

    /// Tokens of a prompt that go through a model at once on it.
    pub fn prefill_piece(self) -> usize {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda => prefill_piece::<crate::cuda::Cuda>(),
            #[cfg(feature = "vulkan")]
            Self::Vulkan => prefill_piece::<crate::webgpu::Wgpu>(),
            #[cfg(all(feature = "wgpu", not(feature = "vulkan")))]
            Self::Wgpu => prefill_piece::<crate::webgpu::Wgpu>(),
            #[cfg(feature = "ndarray")]
            Self::Ndarray => prefill_piece::<crate::host::NdArray>(),
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
