use anyhow::{Context, Result};
use clap::CommandFactory;

use crate::args::{Cli, CompletionsArgs};
use crate::exit::Outcome;
use crate::output::Output;

pub(super) fn run(args: &CompletionsArgs, output: &Output) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "llama4-cli", &mut script);
    output.write(&String::from_utf8(script).context("the completion script is not text")?)?;
    Ok(Outcome::Done)
}
