use std::path::PathBuf;

use super::ModelArgs;

/// Turn text into token ids, and back
///
/// One token a line: its id and its piece, in the vocabulary's own spelling (`Ġ` is a blank, `Ċ` a line end).
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = "`llama4-cli tokenize --help` has examples.")]
pub(crate) struct TokenizeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// A tokenizer.json, instead of a model's
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// The text, or `-` for stdin, which is taken byte for byte; with --decode token ids, as in 1,2,3. What begins with a
    /// dash goes behind `--`
    #[arg(value_name = "TEXT")]
    pub(crate) text: String,
    /// Ids to text: the inverse
    #[arg(short, long)]
    pub(crate) decode: bool,
    /// Print one JSON object: ids and pieces; with --decode the text too
    #[arg(long)]
    pub(crate) json: bool,
    /// Put begin-of-text in front, as `generate` does with a prompt; without it the ids are those of the text alone
    #[arg(long, conflicts_with = "decode")]
    pub(crate) begin_of_text: bool,
    /// Take special tokens in the text, such as <|eot|>, as the characters they are written with
    #[arg(long, conflicts_with = "decode")]
    pub(crate) plain: bool,
    /// Leave special tokens out of the text
    #[arg(long, requires = "decode")]
    pub(crate) skip_special: bool,
}

const EXAMPLES: &str = "\
Examples:
  llama4-cli tokenize 'Roses are red'
  llama4-cli tokenize --model DIR --json - < book.txt
  llama4-cli tokenize --tokenizer tokenizer.json --plain 'what <|eot|> looks like'
  llama4-cli tokenize --decode 12,345,6
  llama4-cli tokenize 'Roses are red' | cut -f1 | llama4-cli tokenize --decode -

Special tokens in the text are parsed and nothing is added, so decoding the ids gives the text back.";
