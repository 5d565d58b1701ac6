//! The command line as typed. Doc comments are the help texts.

mod check;
mod model;
mod run;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub(crate) use check::CheckArgs;
pub(crate) use model::{Preset, WeightArgs};
pub(crate) use run::RunArgs;

use crate::series::Columns;

/// Speed of Llama 4 models on burn's backends, against the measured limits of the machine.
///
/// Models are made in place from a seed, so nothing has to be downloaded. Results go to stdout, progress to stderr.
#[derive(Debug, Parser)]
#[command(name = "llama4-bench", version, arg_required_else_help = true, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  llama4-bench run                                  the demo model's shape, all usual cases
  llama4-bench run --preset cpu --quantize q4 --out cpu-q4.jsonl
  llama4-bench compare ndarray.jsonl cuda.jsonl     ratios against the first file
  llama4-bench plot ndarray.jsonl cuda.jsonl -o bench.svg

Exit codes: 0 success, 1 the run failed, 2 wrong usage, 130 stopped by Ctrl-C (what was measured is kept).
`llama4-bench COMMAND --help` explains a command with examples.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Box<RunArgs>),
    Check(CheckArgs),
    Report(ReportArgs),
    Compare(CompareArgs),
    Plot(PlotArgs),
    Machine(MachineArgs),
}

/// Print files of measurements as tables
///
/// The same tables as at the end of `run`, in Markdown.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  llama4-bench report cpu-q4.jsonl")]
pub(crate) struct ReportArgs {
    /// Files that `run --out` wrote
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

/// Ratios between runs: backends, commits or quantisations
///
/// Cases are matched by name, by the model's shape and by how it is quantised; the first column is 1. A file that holds several configurations
/// (backend, commit, type) has a column for each. Where a case was measured twice in one configuration, the last counts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  llama4-bench compare before.jsonl after.jsonl
  llama4-bench compare ndarray.jsonl wgpu.jsonl cuda.jsonl
  llama4-bench compare --forms f32.jsonl q8.jsonl q4.jsonl")]
pub(crate) struct CompareArgs {
    /// Files that `run --out` wrote
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// How weights are quantised is a column too, instead of part of the model
    #[arg(long)]
    forms: bool,
}

impl CompareArgs {
    pub(crate) fn columns(&self) -> Columns {
        columns(self.forms)
    }
}

fn columns(forms: bool) -> Columns {
    if forms { Columns::Forms } else { Columns::Backends }
}

/// Draw runs as an SVG: bars grouped by case, on a logarithmic scale
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  llama4-bench plot ndarray.jsonl cuda.jsonl -o bench.svg")]
pub(crate) struct PlotArgs {
    /// Files that `run --out` wrote
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Image to write
    #[arg(short, long, value_name = "FILE.svg")]
    pub(crate) output: PathBuf,
    /// Words above the bars
    #[arg(long, value_name = "TEXT", default_value = "Llama 4 on burn")]
    pub(crate) title: String,
    /// How weights are quantised is a column too, instead of part of the model
    #[arg(long)]
    forms: bool,
}

impl PlotArgs {
    pub(crate) fn columns(&self) -> Columns {
        columns(self.forms)
    }
}

/// Say what this machine is, as runs record it
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  llama4-bench machine --slug      2026-11-24-amd-epyc-2-cores")]
pub(crate) struct MachineArgs {
    /// Today's date and the machine in words that a file name can have
    #[arg(long)]
    pub(crate) slug: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_by_examples() {
        for command in super::Cli::command().get_subcommands() {
            let help = command.get_after_long_help().or(command.get_after_help()).map(ToString::to_string);
            assert!(help.unwrap_or_default().contains("llama4-bench"), "{} has no examples", command.get_name());
        }
    }
}
