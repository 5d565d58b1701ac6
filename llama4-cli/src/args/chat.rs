use llama4_backends::BackendArgs;

use super::{ModelArgs, SamplingArgs, WeightArgs};

/// Talk to a model
///
/// Each line is a message; the answer streams. What was said stays in the model's memory, so a turn computes only what
/// is new. Where stdin is not a terminal each of its lines is a message, and only the answers go to stdout.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = "`llama4-cli chat --help` has examples.")]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Instructions that precede the conversation
    #[arg(long, value_name = "TEXT", help_heading = "Conversation")]
    pub(crate) system: Option<String>,
    /// Most tokens of an answer
    #[arg(short = 'n', long, value_name = "N", default_value_t = 512, help_heading = "Conversation")]
    pub(crate) max_new_tokens: usize,
    /// Tokens that the conversation has room for; memory grows with it. The default is the model's limit, at most 8192
    #[arg(long, value_name = "N", help_heading = "Conversation")]
    pub(crate) context: Option<usize>,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) weights: WeightArgs,
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
}

const EXAMPLES: &str = "\
Examples:
  llama4-cli chat --model DIR
  llama4-cli chat --model DIR --system 'You are a pirate.' --temperature 0.6
  printf 'Hi!\\nAnd in French?\\n' | llama4-cli chat --model DIR --quiet

In the conversation:
  /reset        forget everything but the instructions
  /system TEXT  new instructions, and a new conversation; without TEXT none
  /help         these commands
  /quit         leave, as does Ctrl-D
Ctrl-C stops an answer; pressed again before it has stopped it kills the program.";
