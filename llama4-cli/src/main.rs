//! `llama4-cli`: generate text with Llama 4, talk to it, and look into its checkpoints.
//!
//! `args` is the command line as typed, `commands` what it does; only `output` writes; which backend computes is the business of
//! `llama4-backends`.

mod args;
mod commands;
mod conversation;
mod exit;
mod interrupt;
mod layers;
mod lines;
mod memory;
mod model;
mod output;
mod prompt;
mod stream;
mod token_file;
#[cfg(feature = "train")]
mod train;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::not_parsed(&error),
    };
    let output = output::Output::new(&cli.messages);
    let result = interrupt::install().and_then(|()| commands::run(cli.command, &output));
    exit::code(&result, &output)
}
