use std::path::PathBuf;

use clap::ValueEnum;

use super::import::size;
use llama4_backends::Float;

/// Write a random checkpoint of a real model's shape
///
/// For trying what a size takes in memory and time without the weights. It is in Hugging Face's sharded form; activations
/// stay finite through all layers, and tokens spread over the experts.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = "`llama4-cli synth --help` has examples.")]
pub(crate) struct SynthArgs {
    /// Whose shape
    #[arg(long, value_enum, value_name = "NAME")]
    pub(crate) preset: Preset,
    /// Folder to write
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Its first N layers alone
    #[arg(long, value_name = "N")]
    pub(crate) layers: Option<usize>,
    /// Type of the values
    #[arg(long, value_enum, value_name = "TYPE", default_value = "bf16")]
    pub(crate) dtype: Float,
    /// The same seed gives the same values
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Most bytes of a file, as in 500M or 5G; a single tensor may be larger
    #[arg(long, value_name = "SIZE", default_value = "5G", value_parser = size)]
    pub(crate) shard_size: u64,
    /// Replace the folder if it is there
    #[arg(long)]
    pub(crate) force: bool,
}

/// Shapes of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Preset {
    /// Llama 4 Scout 17B-16E: 48 layers, 215.5 GB in bf16
    Scout,
    /// Llama 4 Maverick 17B-128E: 48 layers, 801 GB in bf16
    Maverick,
    /// Llama Guard 4 12B: 48 dense layers, 22 GB in bf16
    Guard4,
    /// 4 layers with 4 experts, less than 1 MB: for tests
    Tiny,
}

const EXAMPLES: &str = "\
Examples:
  llama4-cli synth --preset scout --layers 3 --output ./scout-3
      17.5 GB: three layers, embedding and head
  llama4-cli synth --preset tiny --output ./tiny --seed 7
  llama4-cli generate --model ./tiny --tokens 1,2,3 --temperature 0
      it has no tokenizer: ids in, ids out";
