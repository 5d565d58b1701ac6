use llama4_backends::BackendArgs;

use super::{Ids, ModelArgs, SamplingArgs, WeightArgs};

/// Continue text
///
/// Prints the continuation of each prompt on stdout, the first as it is written; statistics go to stderr.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = "`llama4-cli generate --help` has examples.")]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    #[command(flatten)]
    pub(crate) length: LengthArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) weights: WeightArgs,
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
}

const EXAMPLES: &str = "\
Examples:
  llama4-cli generate
      the demo model, a built-in prompt
  llama4-cli generate --prompt 'My dear Emma,' --seed 7 --max-new-tokens 100
      the same text on every run
  llama4-cli generate --model DIR --chat --system 'Be brief.' --prompt 'Why is the sky blue?'
      a question to a chat model
  git diff | llama4-cli generate --model DIR --chat --prompt - > review.txt
      the prompt from stdin, the answer alone on stdout
  llama4-cli generate --model DIR --prompt @a.txt --prompt @b.txt --json | jq -r .text
      several prompts at once, one JSON line each
  llama4-cli generate --model DIR --tokens 1,2,3 --temperature 0 --json
      ids in, ids out: no tokenizer needed

A JSON line has prompt_tokens, tokens (ids), text (null without a tokenizer), finish_reason,
timings, and with --logprobs one entry for each token in logprobs. Finish reasons are end_token,
stop_string, max_new_tokens, context_full and cancelled.

Ctrl-C ends the run with what there is (exit code 130); pressed again it kills the program.";

/// What to continue.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Prompt")]
pub(crate) struct PromptArgs {
    /// Text to continue: the text itself, `-` for stdin, `@FILE` for a file (less one line end at its end), `@@…` for
    /// text that begins with @. Repeatable
    #[arg(short, long = "prompt", value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "tokens")]
    pub(crate) prompts: Vec<String>,
    /// Token ids to continue, as in 1,2,3: taken as they are, no begin-of-text is added, no tokenizer is needed.
    /// Repeatable, one sequence each
    #[arg(long, value_name = "IDS")]
    pub(crate) tokens: Vec<Ids>,
    /// Take each prompt as a message to an assistant, written by the model's chat template
    #[arg(long, conflicts_with = "tokens")]
    pub(crate) chat: bool,
    /// Instructions that precede the message; with --chat
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub(crate) system: Option<String>,
}

/// When to stop.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Length")]
pub(crate) struct LengthArgs {
    /// Most tokens to generate for each prompt
    #[arg(short = 'n', long, value_name = "N", default_value_t = 256)]
    pub(crate) max_new_tokens: usize,
    /// Stop before this text (repeatable)
    #[arg(long = "stop", value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) stop_strings: Vec<String>,
    /// Go on after the model's end tokens
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    /// Tokens that a sequence has room for, prompt included; memory grows with it. The default is what the longest
    /// prompt and --max-new-tokens need, at most the model's limit
    #[arg(long, value_name = "N")]
    pub(crate) context: Option<usize>,
}

/// How results are printed.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// Print one JSON object a line for each prompt, in their order, and nothing else
    #[arg(long)]
    pub(crate) json: bool,
    /// Give each token's log-probability and those of the N most likely tokens; with --json
    #[arg(long, value_name = "N", requires = "json")]
    pub(crate) logprobs: Option<usize>,
    /// Prompts that are worked on at once; memory grows with it
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_least_one)]
    pub(crate) parallel: usize,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("it must be a whole number".to_owned()),
    }
}
