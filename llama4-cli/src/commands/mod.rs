//! What the commands do; one file each.

mod chat;
mod completions;
mod devices;
mod generate;
mod import;
mod inspect;
mod logits;
mod perplexity;
mod sampling;
mod synth;
mod tokenize;
#[cfg(feature = "train")]
mod train;

use anyhow::Result;

use crate::args::Command;
use crate::exit::Outcome;
use crate::output::Output;

pub(crate) fn run(command: Command, output: &Output) -> Result<Outcome> {
    match command {
        Command::Generate(args) => generate::run(args, output),
        Command::Chat(args) => chat::run(args, output),
        Command::Logits(args) => logits::run(args, output),
        Command::Perplexity(args) => perplexity::run(args, output),
        Command::Tokenize(args) => tokenize::run(&args, output),
        Command::Inspect(args) => inspect::run(&args, output),
        Command::Import(args) => import::run(&args, output),
        Command::Synth(args) => synth::run(&args, output),
        Command::Devices(args) => devices::run(&args, output),
        #[cfg(feature = "train")]
        Command::Train(args) => train::run(args, output),
        Command::Completions(args) => completions::run(&args, output),
    }
}
