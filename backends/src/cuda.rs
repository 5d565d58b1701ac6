//! NVIDIA GPUs, through CubeCL.

use std::path::PathBuf;

use anyhow::{Result, anyhow, bail, ensure};
use burn_cubecl::CubeBackend;
use cubecl::Runtime;
use cubecl::cuda::{CudaDevice, CudaRuntime};
use cudarc::driver::result as driver;

use crate::kernel_cache::keep_kernels;
use crate::start::attempt;
use crate::{Adapter, nvidia};

/// What burn-cuda's `Cuda` is without fusion, whatever features another crate of the build switches on.
pub(crate) type Cuda = CubeBackend<CudaRuntime, f32, i32, u8>;

/// The devices, as the driver numbers them.
pub(crate) fn adapters() -> Result<Vec<Adapter>> {
    // The bindings panic where the driver's library is not there.
    let found = attempt(|| -> Result<Vec<Adapter>, driver::DriverError> {
        driver::init()?;
        (0..driver::device::get_count()?)
            .map(|index| {
                let device = driver::device::get(index)?;
                Ok(Adapter {
                    name: driver::device::get_name(device)?,
                    driver: None,
                    memory: nvidia::total_memory(index as usize),
                    largest_tensor: None,
                })
            })
            .collect()
    });
    match found {
        Ok(Ok(adapters)) if adapters.is_empty() => Err(anyhow!("cuda finds no NVIDIA GPU on this machine")),
        Ok(Ok(adapters)) => Ok(adapters),
        Ok(Err(error)) => Err(anyhow!("cuda does not start: {error}; is an NVIDIA GPU here, and its driver loaded?")),
        Err(said) => Err(anyhow!("cuda does not start: {said}; is an NVIDIA driver installed?")),
    }
}

/// A device that starts.
pub(crate) fn device(index: Option<usize>) -> Result<CudaDevice> {
    let index = index.unwrap_or(0);
    let adapters = adapters()?;
    let count = adapters.len();
    ensure!(index < count, "cuda has no device {index}: it finds {count}, numbered from 0 (`devices` lists them)");
    check_toolkit()?;
    keep_kernels(&adapters[index].name, &toolkit());
    let device = CudaDevice::new(index);
    let started = attempt(|| CudaRuntime::client(&device));
    started.map(drop).map_err(|said| anyhow!("cuda does not start on device {index}: {said}"))?;
    Ok(device)
}

/// Kernels are compiled when they are first used, by NVRTC and with the toolkit's headers.
fn check_toolkit() -> Result<()> {
    let compiled = attempt(|| cudarc::nvrtc::compile_ptx("__global__ void nothing() {}").is_ok());
    if compiled != Ok(true) {
        bail!(
            "cuda needs libnvrtc, which compiles kernels: install the CUDA toolkit (Debian and Ubuntu: \
             cuda-nvrtc-12-8 or newer) and have it in LD_LIBRARY_PATH"
        );
    }
    let include = toolkit().join("include");
    if !include.join("cuda_runtime.h").exists() {
        bail!(
            "cuda needs the CUDA toolkit's headers, and {} has no cuda_runtime.h: install the toolkit (Debian and \
             Ubuntu: cuda-cudart-dev-12-8 or newer) and set CUDA_PATH to its folder",
            include.display()
        );
    }
    Ok(())
}

/// Where CubeCL looks for the toolkit.
fn toolkit() -> PathBuf {
    std::env::var_os("CUDA_PATH").map_or_else(|| PathBuf::from("/usr/local/cuda"), PathBuf::from)
}

/// Bytes that CubeCL's pools hold on a device.
pub(crate) fn reserved(index: Option<usize>) -> Option<u64> {
    let device = device(index).ok()?;
    Some(CudaRuntime::client(&device).memory_usage().bytes_reserved)
}
