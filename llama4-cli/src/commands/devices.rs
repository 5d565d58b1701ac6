use anyhow::Result;
use burn::tensor::DType;
use burn::tensor::backend::Backend;
use clap::ValueEnum;
use llama4::ops::{ActiveKernels, active_kernels};
use serde_json::{Value, json};

use crate::args::DevicesArgs;
use crate::backend::{self, BackendKind, Task};
use crate::exit::Outcome;
use crate::output::Output;

/// Types that a model can run in.
const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

pub(super) fn run(args: &DevicesArgs, output: &Output) -> Result<Outcome> {
    for (index, kind) in BackendKind::value_variants().iter().enumerate() {
        let default = *kind == BackendKind::default();
        // A backend that does not start is part of the answer.
        let found = backend::run(*kind, Survey);
        if args.json {
            output.json(&match found {
                Ok(Found { name, dtypes, kernels }) => json!({
                    "backend": kind.to_string(),
                    "name": name,
                    "default": default,
                    "adapter": backend::adapter(*kind),
                    "dtypes": dtypes,
                    "kernels": kernels.into_iter().map(object).collect::<Vec<_>>(),
                }),
                Err(error) => json!({
                    "backend": kind.to_string(), "default": default, "error": format!("{error:#}"),
                }),
            })?;
            continue;
        }
        if index > 0 {
            output.line("")?;
        }
        output.line(format_args!("{kind}{}", if default { " (default)" } else { "" }))?;
        match found {
            Ok(found) => {
                output.line(format_args!("  adapter   {}", backend::adapter(*kind)))?;
                output.line(format_args!("  dtypes    {}", found.dtypes.join(", ")))?;
                output.line("  kernels")?;
                let width = found.kernels.iter().map(|kernel| kernel.operation.len()).max().unwrap_or(0);
                for ActiveKernels { operation, implementation } in found.kernels {
                    output.line(format_args!("    {operation:width$}  {implementation}"))?;
                }
            }
            Err(error) => output.line(format_args!("  error     {error:#}"))?,
        }
    }
    Ok(Outcome::Done)
}

fn object(kernel: ActiveKernels) -> Value {
    json!({ "operation": kernel.operation, "implementation": kernel.implementation })
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
        let dtypes = DTYPES.into_iter().filter(|dtype| B::supports_dtype(device, *dtype));
        Ok(Found {
            name: B::name(device),
            dtypes: dtypes.map(|dtype| dtype.name()).collect(),
            kernels: active_kernels::<B>(),
        })
    }
}
