use std::path::PathBuf;

use llama4::config::ReturnHiddenStates;

use llama4_backends::BackendArgs;

use super::{Ids, ModelArgs, WeightArgs};

/// Write a model's logits to a file
///
/// Runs the model once over the given tokens and writes what it answers, so that it can be compared with another
/// implementation number by number.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = "`llama4-cli logits --help` has examples.")]
pub(crate) struct LogitsArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Token ids, as in 1,2,3; taken as they are, no begin-of-text is added
    #[arg(long, value_name = "IDS")]
    pub(crate) tokens: Ids,
    /// File to write, in safetensors format; it is replaced as a whole once everything is there
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Hidden states to write too: none, last, last-per-device, all, all-normalized, or selected-layers:I,J,…
    #[arg(long, value_name = "MODE", default_value_t)]
    pub(crate) hidden_states: ReturnHiddenStates,
    #[command(flatten)]
    pub(crate) weights: WeightArgs,
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
}

const EXAMPLES: &str = "\
Examples:
  llama4-cli logits --model DIR --tokens 200000,9259,44 --output logits.safetensors
  llama4-cli logits --tokens 1,2,3 --output all.safetensors --hidden-states all-normalized
  llama4-cli logits --tokens 1,2,3 --output some.safetensors --hidden-states selected-layers:0,3
  python3 -c 'from safetensors.numpy import load_file as load; print(load(\"all.safetensors\"))'

The file holds, all f32:
  logits         [seq, vocab]
  hidden_states  [1, hidden] for last and last-per-device, [seq, hidden] for all and all-normalized,
                 [layers, seq, hidden] for selected-layers, in increasing order of the layers
`last`, `all` and `selected-layers` give the residual stream before the final norm,
`all-normalized` after it.";
