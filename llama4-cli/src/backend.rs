//! The one place that names a backend. A command that computes is a [`Task`], generic over the backend, and is compiled once for
//! each backend that the program is built with.

#[cfg(not(any(feature = "cuda", feature = "ndarray")))]
compile_error!("llama4-cli needs something to compute on: enable the feature `ndarray` (on by default) or `cuda`");

use std::fmt;

use anyhow::Result;
use burn::tensor::DType;
use burn::tensor::backend::Backend;
use clap::ValueEnum;

/// The backends of this build, the fastest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendKind {
    /// NVIDIA GPUs
    #[cfg(feature = "cuda")]
    Cuda,
    /// The CPU
    #[cfg(feature = "ndarray")]
    Ndarray,
}

impl Default for BackendKind {
    fn default() -> Self {
        Self::value_variants()[0]
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            #[cfg(feature = "cuda")]
            Self::Cuda => "cuda",
            #[cfg(feature = "ndarray")]
            Self::Ndarray => "ndarray",
        })
    }
}

impl BackendKind {
    /// Bytes that are free where the backend holds a model, if the system says.
    pub(crate) fn free_memory(self) -> Option<u64> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda => cuda::free_memory(),
            #[cfg(feature = "ndarray")]
            Self::Ndarray => host_memory(),
        }
    }

    /// The type that a checkpoint of type `stored` runs in on this backend, unless told otherwise.
    pub(crate) fn usual_dtype(self, stored: DType) -> DType {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda => stored,
            #[cfg(feature = "ndarray")]
            Self::Ndarray => {
                let _ = stored;
                DType::F32
            }
        }
    }

    /// Where that is, for people.
    pub(crate) fn memory_name(self) -> &'static str {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda => "the GPU",
            #[cfg(feature = "ndarray")]
            Self::Ndarray => "this machine",
        }
    }
}

/// What programs may still take, the control group's limit respected.
#[cfg(feature = "ndarray")]
fn host_memory() -> Option<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let free = system.available_memory();
    let limit = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    (free > 0).then(|| free.min(limit))
}

/// Something to do on a backend.
pub(crate) trait Task {
    /// What comes out.
    type Output;

    fn run<B: Backend>(self, device: &B::Device) -> Result<Self::Output>;
}

/// Do it on a backend's first device.
pub(crate) fn run<T: Task>(kind: BackendKind, task: T) -> Result<T::Output> {
    match kind {
        #[cfg(feature = "cuda")]
        BackendKind::Cuda => {
            cuda::check()?;
            task.run::<burn_cuda::Cuda<f32, i32>>(&Default::default())
        }
        #[cfg(feature = "ndarray")]
        BackendKind::Ndarray => task.run::<burn_ndarray::NdArray<f32>>(&Default::default()),
    }
}

/// Something to do on a backend that differentiates.
#[cfg(feature = "train")]
pub(crate) trait TrainTask {
    /// What comes out.
    type Output;

    fn run<B: burn::tensor::backend::AutodiffBackend>(self, device: &B::Device) -> Result<Self::Output>;
}

/// Do it on a backend's first device.
#[cfg(feature = "train")]
pub(crate) fn run_training<T: TrainTask>(kind: BackendKind, task: T) -> Result<T::Output> {
    use burn_autodiff::Autodiff;
    match kind {
        #[cfg(feature = "cuda")]
        BackendKind::Cuda => {
            cuda::check()?;
            task.run::<Autodiff<burn_cuda::Cuda<f32, i32>>>(&Default::default())
        }
        #[cfg(feature = "ndarray")]
        BackendKind::Ndarray => task.run::<Autodiff<burn_ndarray::NdArray<f32>>>(&Default::default()),
    }
}

/// What a backend computes on, for people.
pub(crate) fn adapter(kind: BackendKind) -> String {
    match kind {
        #[cfg(feature = "cuda")]
        BackendKind::Cuda => cuda::adapter(),
        #[cfg(feature = "ndarray")]
        BackendKind::Ndarray => {
            format!("{}, {} threads", cpu_model(), rayon::current_num_threads())
        }
    }
}

/// The processor's name where the system tells, else its architecture.
#[cfg(feature = "ndarray")]
fn cpu_model() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let names = info.lines().filter_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == "model name"));
    match names.map(|(_, name)| name.trim()).find(|name| !name.is_empty() && *name != "unknown") {
        Some(name) => name.to_owned(),
        None => std::env::consts::ARCH.to_owned(),
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::panic;

    use anyhow::{Result, anyhow};
    use burn::tensor::DType;
    use burn::tensor::backend::Backend;

    /// Whether CUDA starts. Where driver or device are not there, its bindings panic instead of returning an error.
    pub(super) fn check() -> Result<()> {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(|_| ()));
        let started =
            panic::catch_unwind(|| burn_cuda::Cuda::<f32, i32>::supports_dtype(&Default::default(), DType::F32));
        panic::set_hook(hook);
        started.map(|_| ()).map_err(|payload| {
            let said = payload.downcast_ref::<String>().map(String::as_str);
            let said = said.or(payload.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
            // What follows is a list of all file names that were tried.
            let said = said.lines().next().unwrap_or_default();
            let said = said.split(" - ").next().unwrap_or_default();
            anyhow!(
                "cuda does not start: {said}; is there an NVIDIA driver and device? `--backend ndarray` uses the CPU"
            )
        })
    }

    /// Free memory of the first device, where the driver's tool is there to ask.
    pub(super) fn free_memory() -> Option<u64> {
        let output = std::process::Command::new("nvidia-smi")
            .args(["--query-gpu=memory.free", "--format=csv,noheader,nounits", "--id=0"])
            .output()
            .ok()?;
        let mebibytes: u64 = String::from_utf8(output.stdout).ok()?.trim().parse().ok()?;
        Some(mebibytes << 20)
    }

    /// The devices' names, where the driver tells.
    pub(super) fn adapter() -> String {
        let names: Vec<String> = std::fs::read_dir("/proc/driver/nvidia/gpus")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| std::fs::read_to_string(entry.path().join("information")).ok())
            .filter_map(|text| {
                text.lines().find_map(|line| line.strip_prefix("Model:").map(|name| name.trim().to_owned()))
            })
            .collect();
        match names.is_empty() {
            true => "CUDA device 0".to_owned(),
            false => names.join(", "),
        }
    }
}
