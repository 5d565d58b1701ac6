//! Speed of Llama 4 models on burn's backends, against the measured limits of the machine.
//!
//! `args` is the command line as typed, `run` measures, `record` is what is kept; only `output` writes to the terminal.

mod args;
mod case;
mod check;
mod compare;
mod cost;
mod harness;
mod interrupt;
mod limits;
mod machine;
mod output;
mod peer;
mod plot;
mod record;
mod run;
mod series;
mod table;

use std::process::ExitCode;

use anyhow::Result;
use chrono::Utc;
use clap::Parser;

use crate::args::{Cli, Command, MachineArgs};
use crate::interrupt::{INTERRUPTED, Stopped};
use crate::machine::Machine;

fn main() -> ExitCode {
    let result = dispatch(Cli::parse().command);
    output::clear();
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            output::say(Stopped);
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            output::say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Whether it came to its end.
fn dispatch(command: Command) -> Result<bool> {
    match command {
        Command::Run(args) => return run::run(&args),
        Command::Check(args) => return check::check(&args),
        Command::Report(args) => {
            let records = args.files.iter().map(|file| record::read(file)).collect::<Result<Vec<_>>>()?;
            output::write(&table::markdown(&records.concat()))?;
        }
        Command::Compare(args) => output::write(&compare::compare(&args.files, args.columns())?)?,
        Command::Plot(args) => plot::plot(&args.files, args.columns(), &args.title, &args.output)?,
        Command::Machine(MachineArgs { slug }) => {
            let machine = Machine::here(String::new());
            output::write(&match slug {
                true => format!("{}-{}\n", Utc::now().format("%F"), machine.slug()),
                false => {
                    let memory = machine.memory as f64 / 1e9;
                    let commit = machine::commit().unwrap_or_else(|| "unknown".to_owned());
                    format!("{}, {} cores, {memory:.0} GB; commit {commit}\n", machine.cpu, machine.cores)
                }
            })?;
        }
    }
    Ok(true)
}
