//! The command line as typed. Doc comments are the help texts; what they mean is done in `commands`.

mod chat;
mod completions;
mod devices;
mod generate;
mod ids;
mod import;
mod inspect;
mod logits;
mod model;
mod perplexity;
mod sampling;
mod synth;
mod tokenize;
#[cfg(feature = "train")]
mod train;

pub(crate) use chat::ChatArgs;
pub(crate) use completions::CompletionsArgs;
pub(crate) use devices::DevicesArgs;
pub(crate) use generate::{GenerateArgs, PromptArgs};
pub(crate) use ids::Ids;
pub(crate) use import::ImportArgs;
pub(crate) use inspect::InspectArgs;
pub(crate) use logits::LogitsArgs;
pub(crate) use model::{ModelArgs, WeightArgs};
pub(crate) use perplexity::PerplexityArgs;
pub(crate) use sampling::SamplingArgs;
pub(crate) use synth::{Preset as SynthPreset, SynthArgs};
pub(crate) use tokenize::TokenizeArgs;
#[cfg(feature = "train")]
pub(crate) use train::TrainArgs;

use clap::{Parser, Subcommand};

/// Llama 4 (text) on the command line.
///
/// A small model is part of this program, so every command works without a download; `--model DIR` takes a checkpoint
/// in Hugging Face's layout instead. Results go to stdout, everything else to stderr.
#[derive(Debug, Parser)]
#[command(name = "llama4-cli", version, arg_required_else_help = true, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// What is said on stderr.
    #[command(flatten)]
    pub(crate) messages: MessageArgs,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  llama4-cli generate                                 the demo model continues a built-in prompt
  llama4-cli generate --prompt 'It was a dark night'  … or yours
  llama4-cli chat --model ./Llama-4-Scout             talk to a model on disk
  llama4-cli inspect --model ./Llama-4-Scout          see what is in a checkpoint
  llama4-cli import --model ./Llama-4-Scout --quantize q4 --output ./Scout-q4

Exit codes: 0 success, 1 the run failed, 2 wrong usage, 130 stopped by Ctrl-C.
`llama4-cli COMMAND --help` explains a command with examples.";

/// Options of every command about what is said on stderr.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Messages")]
pub(crate) struct MessageArgs {
    /// No progress and no statistics on stderr; warnings and errors stay
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Say on stderr what is being done; -vv with details. RUST_LOG, where set, decides instead
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// One variant for each file in `commands`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Generate(GenerateArgs),
    Chat(ChatArgs),
    Logits(LogitsArgs),
    Perplexity(PerplexityArgs),
    Tokenize(TokenizeArgs),
    Inspect(InspectArgs),
    Import(ImportArgs),
    Synth(SynthArgs),
    Devices(DevicesArgs),
    #[cfg(feature = "train")]
    Train(TrainArgs),
    Completions(CompletionsArgs),
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
            assert!(help.unwrap_or_default().contains("llama4-cli"), "{} has no examples", command.get_name());
        }
    }
}
