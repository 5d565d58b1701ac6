use anyhow::Result;
use burn::tensor::DType;
use burn::tensor::backend::Backend;
use clap::ValueEnum;
use llama4::ops::{ActiveKernels, active_kernels, computes_in};
use llama4_backends::{Adapter, BackendKind, Target, Task};
use serde_json::{Value, json};

use crate::args::DevicesArgs;
use crate::exit::Outcome;
use crate::output::Output;

/// Types that a model can run in.
const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

pub(super) fn run(args: &DevicesArgs, output: &Output) -> Result<Outcome> {
    let default = Target::choose(None, None).ok().map(|target| target.backend);
    for (index, &backend) in BackendKind::value_variants().iter().enumerate() {
        let is_default = default == Some(backend);
        // A backend that does not start is part of the answer.
        let devices = backend.adapters().map(|adapters| survey(backend, adapters));
        if args.json {
            output.json(&match devices {
                Ok(devices) => json!({
                    "backend": backend.name(),
                    "default": is_default,
                    "devices": devices.iter().map(object).collect::<Vec<_>>(),
                }),
                Err(error) => {
                    json!({ "backend": backend.name(), "default": is_default, "error": format!("{error:#}") })
                }
            })?;
            continue;
        }
        if index > 0 {
            output.line("")?;
        }
        output.line(format_args!("{backend}{}", if is_default { " (default)" } else { "" }))?;
        match devices {
            Ok(devices) => devices.iter().try_for_each(|device| print(device, output))?,
            Err(error) => output.line(format_args!("  error     {error:#}"))?,
        }
    }
    Ok(Outcome::Done)
}

/// A device, and what was found by starting it.
struct Device {
    number: usize,
    adapter: Adapter,
    found: Result<Found>,
}

fn survey(backend: BackendKind, adapters: Vec<Adapter>) -> Vec<Device> {
    let device = |(number, adapter)| {
        let found = Target { backend, device: Some(number) }.run(Survey);
        Device { number, adapter, found }
    };
    adapters.into_iter().enumerate().map(device).collect()
}

fn print(device: &Device, output: &Output) -> Result<()> {
    output.line(format_args!("  device {}  {}", device.number, device.adapter))?;
    match &device.found {
        Ok(found) => {
            output.line(format_args!("    dtypes    {}", found.dtypes.join(", ")))?;
            output.line("    kernels")?;
            let width = found.kernels.iter().map(|kernel| kernel.operation.len()).max().unwrap_or(0);
            for ActiveKernels { operation, implementation } in &found.kernels {
                output.line(format_args!("      {operation:width$}  {implementation}"))?;
            }
        }
        Err(error) => output.line(format_args!("    error     {error:#}"))?,
    }
    Ok(())
}

fn object(device: &Device) -> Value {
    let adapter = &device.adapter;
    let mut object = json!({
        "number": device.number,
        "adapter": adapter.name,
        "driver": adapter.driver,
        "memory": adapter.memory,
        "largest_tensor": adapter.largest_tensor,
    });
    match &device.found {
        Ok(found) => {
            let kernel = |kernel: &ActiveKernels| json!({ "operation": kernel.operation, "implementation": kernel.implementation });
            object["name"] = json!(found.name);
            object["dtypes"] = json!(found.dtypes);
            object["kernels"] = found.kernels.iter().map(kernel).collect();
        }
        Err(error) => object["error"] = json!(format!("{error:#}")),
    }
    object
}

struct Found {
    name: String,
    dtypes: Vec<&'static str>,
    kernels: Vec<ActiveKernels>,
}

struct Survey;

impl Task for Survey {
    type Output = Found;

    fn run<B: Backend>(self, device: &B::Device) -> Result<Found> {
        let dtypes = DTYPES.into_iter().filter(|dtype| computes_in::<B>(device, *dtype));
        Ok(Found {
            name: B::name(device),
            dtypes: dtypes.map(|dtype| dtype.name()).collect(),
            kernels: active_kernels::<B>(),
        })
    }
}
