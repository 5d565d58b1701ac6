use anyhow::{Result, anyhow};
use burn::tensor::backend::Backend;
use clap::ValueEnum;

use crate::BackendKind;

/// What a program computes on: a backend and one of its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The backend.
    pub backend: BackendKind,
    /// Number of the device among [`BackendKind::adapters`]; `None` is the one that the backend prefers.
    pub device: Option<usize>,
}

/// Something to do on a backend.
pub trait Task {
    /// What comes out.
    type Output;

    /// Do it.
    ///
    /// # Errors
    /// When it cannot be done.
    fn run<B: Backend>(self, device: &B::Device) -> Result<Self::Output>;
}

/// Something to do on a backend that differentiates.
#[cfg(feature = "train")]
pub trait TrainTask {
    /// What comes out.
    type Output;

    /// Do it.
    ///
    /// # Errors
    /// When it cannot be done.
    fn run<B: burn::tensor::backend::AutodiffBackend>(self, device: &B::Device) -> Result<Self::Output>;
}

impl Target {
    /// The backend that was asked for, else the fastest of the build that starts.
    ///
    /// # Errors
    /// When the device is not there, or nothing starts; the error says what each backend lacks.
    pub fn choose(asked: Option<BackendKind>, device: Option<usize>) -> Result<Self> {
        if let Some(backend) = asked {
            let target = Self { backend, device };
            target.check()?;
            return Ok(target);
        }
        let mut lacking = Vec::new();
        for &backend in BackendKind::value_variants() {
            let target = Self { backend, device };
            match target.check() {
                Ok(()) => return Ok(target),
                Err(error) => {
                    tracing::info!("{error:#}");
                    lacking.push(format!("{error:#}"));
                }
            }
        }
        Err(anyhow!(lacking.join("; ")))
    }

    /// Whether it starts.
    fn check(self) -> Result<()> {
        match self.backend {
            #[cfg(feature = "cuda")]
            BackendKind::Cuda => crate::cuda::device(self.device).map(drop),
            #[cfg(feature = "vulkan")]
            BackendKind::Vulkan => crate::webgpu::device(self.device).map(drop),
            #[cfg(all(feature = "wgpu", not(feature = "vulkan")))]
            BackendKind::Wgpu => crate::webgpu::device(self.device).map(drop),
            #[cfg(feature = "ndarray")]
            BackendKind::Ndarray => only_device(self.device),
        }
    }

    /// Do something there.
    ///
    /// # Errors
    /// When the backend does not start, or the task fails.
    pub fn run<T: Task>(self, task: T) -> Result<T::Output> {
        match self.backend {
            #[cfg(feature = "cuda")]
            BackendKind::Cuda => task.run::<crate::cuda::Cuda>(&crate::cuda::device(self.device)?),
            #[cfg(feature = "vulkan")]
            BackendKind::Vulkan => task.run::<crate::webgpu::Wgpu>(&crate::webgpu::device(self.device)?),
            #[cfg(all(feature = "wgpu", not(feature = "vulkan")))]
            BackendKind::Wgpu => task.run::<crate::webgpu::Wgpu>(&crate::webgpu::device(self.device)?),
            #[cfg(feature = "ndarray")]
            BackendKind::Ndarray => {
                only_device(self.device)?;
                task.run::<crate::host::NdArray>(&Default::default())
            }
        }
    }

    /// Do something there that differentiates.
    ///
    /// # Errors
    /// When the backend does not start, or the task fails.
    #[cfg(feature = "train")]
    pub fn run_training<T: TrainTask>(self, task: T) -> Result<T::Output> {
        use burn_autodiff::Autodiff;
        match self.backend {
            #[cfg(feature = "cuda")]
            BackendKind::Cuda => task.run::<Autodiff<crate::cuda::Cuda>>(&crate::cuda::device(self.device)?),
            #[cfg(feature = "vulkan")]
            BackendKind::Vulkan => task.run::<Autodiff<crate::webgpu::Wgpu>>(&crate::webgpu::device(self.device)?),
            #[cfg(all(feature = "wgpu", not(feature = "vulkan")))]
            BackendKind::Wgpu => task.run::<Autodiff<crate::webgpu::Wgpu>>(&crate::webgpu::device(self.device)?),
            #[cfg(feature = "ndarray")]
            BackendKind::Ndarray => {
                only_device(self.device)?;
                task.run::<Autodiff<crate::host::NdArray>>(&Default::default())
            }
        }
    }

    /// Bytes that are free where the backend holds a model, if the system says.
    pub fn free_memory(self) -> Option<u64> {
        match self.backend {
            #[cfg(feature = "cuda")]
            BackendKind::Cuda => crate::nvidia::free_memory(self.device.unwrap_or(0)),
            #[cfg(feature = "vulkan")]
            BackendKind::Vulkan => crate::webgpu::free_memory(self.device),
            #[cfg(all(feature = "wgpu", not(feature = "vulkan")))]
            BackendKind::Wgpu => crate::webgpu::free_memory(self.device),
            #[cfg(feature = "ndarray")]
            BackendKind::Ndarray => crate::memory::host_free(),
        }
    }

    /// Bytes that the backend has taken of its device's memory in this process, pools included; they are not given back, so this is also the
    /// most that it took. `None` where that is the process's own memory.
    pub fn device_memory(self) -> Option<u64> {
        match self.backend {
            #[cfg(feature = "cuda")]
            BackendKind::Cuda => crate::cuda::reserved(self.device),
            #[cfg(feature = "vulkan")]
            BackendKind::Vulkan => crate::webgpu::reserved(self.device),
            #[cfg(all(feature = "wgpu", not(feature = "vulkan")))]
            BackendKind::Wgpu => crate::webgpu::reserved(self.device),
            #[cfg(feature = "ndarray")]
            BackendKind::Ndarray => None,
        }
    }

    /// The largest tensor in bytes that the device can work on, where it has such a limit.
    pub fn largest_tensor(self) -> Option<u64> {
        let adapters = self.backend.adapters().ok()?;
        adapters.get(self.device.unwrap_or(0))?.largest_tensor
    }

    /// The largest page that CubeCL gives the device's memory out in: what a shader can bind at once, or a quarter of the memory. `None` where
    /// memory is not given out in pages.
    pub fn max_page(self) -> Option<u64> {
        let adapters = self.backend.adapters().ok()?;
        let adapter = adapters.get(self.device.unwrap_or(0))?;
        adapter.largest_tensor.or(adapter.memory.map(|bytes| bytes / 4))
    }

    /// Where [`free_memory`](Self::free_memory) is, for people.
    pub fn memory_name(self) -> &'static str {
        match self.backend {
            #[cfg(feature = "ndarray")]
            BackendKind::Ndarray => "this machine",
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            _ => "the GPU",
        }
    }
}

/// The CPU is one device.
#[cfg(feature = "ndarray")]
fn only_device(device: Option<usize>) -> Result<()> {
    match device {
        None | Some(0) => Ok(()),
        Some(device) => anyhow::bail!("ndarray has no device {device}: the CPU is its only one, number 0"),
    }
}
