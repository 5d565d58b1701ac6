//! GPUs through wgpu, as WGSL or, in a build with the feature `vulkan`, as SPIR-V.

use std::sync::{Mutex, PoisonError};

use anyhow::{Result, anyhow, ensure};
use burn_cubecl::CubeBackend;
use cubecl::Runtime;
use cubecl::prelude::ComputeClient;
use cubecl::wgpu::{AutoGraphicsApi, GraphicsApi, RuntimeOptions, WgpuDevice, WgpuRuntime, init_setup};
use wgpu::DeviceType;

use crate::start::attempt;
use crate::{Adapter, nvidia};

/// What burn-wgpu's `Wgpu` is without fusion.
pub(crate) type Wgpu = CubeBackend<WgpuRuntime, f32, i32, u32>;

/// NVIDIA's number among the makers of PCI devices.
const NVIDIA: u32 = 0x10de;

/// An adapter as wgpu has it, and as CubeCL names it.
struct Found {
    info: wgpu::AdapterInfo,
    limits: wgpu::Limits,
    device: WgpuDevice,
}

/// The adapters of the graphics interface that CubeCL uses here, GPUs before software.
fn found() -> Result<Vec<Found>> {
    let backends = AutoGraphicsApi::backend().into();
    let descriptor = wgpu::InstanceDescriptor { backends, ..Default::default() };
    let adapters = wgpu::Instance::new(&descriptor).enumerate_adapters(backends);
    ensure!(
        !adapters.is_empty(),
        "wgpu finds no adapter: install the GPU's Vulkan driver and loader (Debian and Ubuntu: libvulkan1 and the \
         maker's driver; mesa-vulkan-drivers has those for AMD and Intel, and one in software)"
    );
    let mut counts = [0; 4];
    let mut found: Vec<Found> = adapters
        .into_iter()
        .map(|adapter| {
            let info = adapter.get_info();
            // CubeCL counts the devices of each sort.
            let mut next = |sort: usize| {
                counts[sort] += 1;
                counts[sort] - 1
            };
            let device = match info.device_type {
                DeviceType::DiscreteGpu => WgpuDevice::DiscreteGpu(next(0)),
                DeviceType::IntegratedGpu => WgpuDevice::IntegratedGpu(next(1)),
                DeviceType::VirtualGpu => WgpuDevice::VirtualGpu(next(2)),
                DeviceType::Cpu => WgpuDevice::Cpu,
                DeviceType::Other => WgpuDevice::DefaultDevice,
            };
            Found { limits: adapter.limits(), info, device }
        })
        .collect();
    found.sort_by_key(|found| match found.info.device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    });
    Ok(found)
}

fn nth(index: Option<usize>) -> Result<Found> {
    let index = index.unwrap_or(0);
    let mut found = found()?;
    let count = found.len();
    ensure!(index < count, "wgpu has no device {index}: it finds {count}, numbered from 0 (`devices` lists them)");
    Ok(found.swap_remove(index))
}

pub(crate) fn adapters() -> Result<Vec<Adapter>> {
    let adapter = |found: Found| {
        let info = found.info;
        let sort = match info.device_type {
            DeviceType::DiscreteGpu => "GPU",
            DeviceType::IntegratedGpu => "integrated GPU",
            DeviceType::VirtualGpu => "virtual GPU",
            DeviceType::Cpu => "software",
            DeviceType::Other => "other",
        };
        let driver = [sort.to_owned(), info.backend.to_string(), info.driver, info.driver_info];
        let driver: Vec<String> = driver.into_iter().filter(|part| !part.is_empty()).collect();
        Adapter {
            name: info.name,
            driver: Some(driver.join(", ")),
            memory: None,
            largest_tensor: Some(u64::from(found.limits.max_storage_buffer_binding_size)),
        }
    };
    Ok(found()?.into_iter().map(adapter).collect())
}

/// Launches that go to a GPU together: twice CubeCL's, since each time costs some 50 µs on the GPU. The model sends its first layers sooner.
const LAUNCHES: usize = 64;

/// The variable by which CubeCL takes another number.
const LAUNCHES_VARIABLE: &str = "CUBECL_WGPU_MAX_TASKS";

/// Start a device, or take it as it has been started.
fn client(device: &WgpuDevice) -> ComputeClient<WgpuRuntime> {
    static STARTED: Mutex<Vec<WgpuDevice>> = Mutex::new(Vec::new());
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    if !started.contains(device) {
        let mut options = RuntimeOptions::default();
        if std::env::var_os(LAUNCHES_VARIABLE).is_none() {
            options.tasks_max = LAUNCHES;
        }
        init_setup::<AutoGraphicsApi>(device, options);
        started.push(device.clone());
    }
    WgpuRuntime::client(device)
}

/// A device that starts.
pub(crate) fn device(index: Option<usize>) -> Result<WgpuDevice> {
    let found = nth(index)?;
    let started = attempt(|| client(&found.device));
    let device = found.device;
    started.map(|_| device).map_err(|said| {
        let hint = match cfg!(feature = "vulkan") {
            true => "; a build with the feature `wgpu` instead of `vulkan` runs on more adapters",
            false => "",
        };
        anyhow!("wgpu does not start on {} ({}): {said}{hint}", found.info.name, found.info.driver)
    })
}

/// Free bytes, where a tool of the maker's says; a software adapter has the host's memory.
pub(crate) fn free_memory(index: Option<usize>) -> Option<u64> {
    let found = nth(index).ok()?;
    match (found.info.device_type, found.device) {
        (DeviceType::Cpu, _) => crate::memory::host_free(),
        (_, WgpuDevice::DiscreteGpu(number)) if found.info.vendor == NVIDIA => nvidia::free_memory(number),
        _ => None,
    }
}

/// Bytes that CubeCL's pools hold on a device.
pub(crate) fn reserved(index: Option<usize>) -> Option<u64> {
    let found = nth(index).ok()?;
    Some(client(&found.device).memory_usage().bytes_reserved)
}
