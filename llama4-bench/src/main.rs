//! Prefill and decode speed of a Llama 4 model on burn's backends.

mod args;
mod cases;
mod harness;
mod report;

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::process::ExitCode;

use anyhow::{Context, Result};
use burn::tensor::backend::Backend;
use clap::Parser;
use llama4::import::{LoadOptions, load};

use crate::args::Args;
use crate::cases::Case;

/// The backend that is measured.
type Measured = burn_ndarray::NdArray<f32>;

fn main() -> ExitCode {
    let args = Args::parse();
    match run::<Measured>(&args, "ndarray") {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "llama4-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run<B: Backend>(args: &Args, backend: &str) -> Result<()> {
    let device = B::Device::default();
    let model = load::<B>(args.model.as_path(), &LoadOptions::default(), &device, |_| ControlFlow::Continue(()))
        .with_context(|| format!("cannot load {}", args.model.display()))?
        .model;
    let cases = Case::all(&args.prefill, &args.decode, args.decode_tokens);
    let mut results = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        if std::io::stderr().is_terminal() {
            let _ = write!(std::io::stderr(), "\r{} of {}: {case}          ", index + 1, cases.len());
        }
        results.push(report::Record::new(case, backend, &args.model, cases::measure(&model, case, args.repeats)?));
    }
    if std::io::stderr().is_terminal() {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
    let text = if args.json { report::json_lines(&results)? } else { report::table(&results) };
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
