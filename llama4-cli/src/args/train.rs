use std::path::PathBuf;

use crate::train::Recipe;
use llama4_backends::BackendArgs;

/// Train a model from scratch
///
/// Trains the library's own modules on a file of token ids and writes a checkpoint in Hugging Face's layout.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = "`llama4-cli train --help` has examples.")]
pub(crate) struct TrainArgs {
    /// config.json of the model to train
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Training text: token ids, 16-bit little-endian
    #[arg(long, value_name = "FILE")]
    pub(crate) tokens: PathBuf,
    /// Text for validation, in the same form
    #[arg(long, value_name = "FILE")]
    pub(crate) validation: PathBuf,
    /// Folder for checkpoint, loss curve (loss.csv) and, at the end, the model
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Go on from the checkpoint in --output
    #[arg(long)]
    pub(crate) resume: bool,
    /// A tokenizer.json to put beside the model
    #[arg(long, value_name = "FILE")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// A generation_config.json to put beside the model
    #[arg(long, value_name = "FILE")]
    pub(crate) generation_config: Option<PathBuf>,
    /// Steps between lines of the loss curve
    #[arg(long, value_name = "STEPS", default_value_t = 50)]
    pub(crate) log_every: usize,
    /// Steps between validations and checkpoints
    #[arg(long, value_name = "STEPS", default_value_t = 500)]
    pub(crate) save_every: usize,
    #[command(flatten)]
    pub(crate) recipe: Recipe,
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
}

const EXAMPLES: &str = "\
Examples:
  llama4-cli train --config fixtures/demo/config.json --tokens data/demo/train.u16 \\
      --validation data/demo/dev.u16 --tokenizer fixtures/demo/tokenizer.json --output runs/demo
  llama4-cli train … --output runs/demo --resume    go on, with the same options
  llama4-cli generate --model runs/demo

Ctrl-C saves a checkpoint after the step it comes in and stops; pressed again it kills the program.";
