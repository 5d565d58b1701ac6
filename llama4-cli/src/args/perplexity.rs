use std::path::PathBuf;

use llama4_backends::BackendArgs;

use super::{ModelArgs, WeightArgs};

/// Measure how well a model predicts a text
///
/// Every token but the first is predicted once, from what stands before it in a window of the context. The loss is the mean
/// negative log-likelihood in nats a token, the perplexity its exponential.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = "`llama4-cli perplexity --help` has examples.")]
pub(crate) struct PerplexityArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Text to predict: itself, `-` for stdin, `@FILE` for a file; a begin-of-text token is put before it
    #[arg(value_name = "TEXT", required_unless_present = "token_file")]
    pub(crate) text: Option<String>,
    /// A file of token ids instead of text: 16 bits each, little-endian
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    pub(crate) token_file: Option<PathBuf>,
    /// Tokens of a window; the whole context of the model, at most 2048, unless given
    #[arg(long, value_name = "TOKENS")]
    pub(crate) context: Option<usize>,
    /// Tokens between the beginnings of two windows; half the context unless given
    #[arg(long, value_name = "TOKENS")]
    pub(crate) stride: Option<usize>,
    /// Windows that go through the model at once
    #[arg(long, value_name = "WINDOWS", default_value_t = 4)]
    pub(crate) parallel: usize,
    /// Print one line of JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) weights: WeightArgs,
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
}

const EXAMPLES: &str = "\
Examples:
  llama4-cli perplexity @chapter.txt
  llama4-cli perplexity --model DIR --context 1024 --stride 256 @chapter.txt
  llama4-cli perplexity --token-file heldout.u16 --json

With a stride below the context, every token after the first window has at least context - stride tokens before it.
A smaller stride is fairer to the model and slower.";
