use std::path::PathBuf;

use llama4_backends::BackendArgs;

use super::{Preset, WeightArgs};

/// Compare a model's logits, kernels against plain definitions
///
/// The model generates tokens one by one with the kernels of its backend, each the most likely. Then the same tokens go through it as a prompt: with
/// kernels, and by the plain definitions, which are burn's own operations on the same device. It fails where a most likely token differs although the
/// logits of the two lie further apart than the largest difference at that position.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  llama4-bench check --preset scout --quantize q4 --out check.jsonl
      all of Scout's layers, 256 tokens")]
pub(crate) struct CheckArgs {
    /// Whose shape
    #[arg(long, value_enum, value_name = "NAME", default_value = "demo", help_heading = "Model")]
    pub(crate) preset: Preset,
    /// The shape's first N layers alone
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub(crate) layers: Option<usize>,
    /// The same seed gives the same weights
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Model")]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) weights: WeightArgs,

    #[command(flatten)]
    pub(crate) backend: BackendArgs,

    /// Positions to compare
    #[arg(long, value_name = "TOKENS", default_value_t = 256, value_parser = super::run::positive)]
    pub(crate) tokens: usize,
    /// Append a line of JSON for each comparison to this file
    #[arg(short, long, value_name = "FILE.jsonl")]
    pub(crate) out: Option<PathBuf>,
}
