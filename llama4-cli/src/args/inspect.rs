use llama4_backends::{BackendArgs, FloatArgs, QuantizeArgs};

use super::ModelArgs;

/// Say what is in a checkpoint
///
/// Reads the configuration and the headers of the weights; no weight is loaded.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = "`llama4-cli inspect --help` has examples.")]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Context lengths to give the size of the key-value cache for, as in 4096,131072
    #[arg(long, value_name = "TOKENS", value_delimiter = ',')]
    pub(crate) context: Vec<usize>,
    /// Say what disk and memory running the model takes. Of the checkpoint only config.json is needed
    #[arg(long)]
    pub(crate) estimate: bool,
    /// Sequences at once, for --estimate
    #[arg(long, value_name = "N", default_value_t = 1, requires = "estimate")]
    pub(crate) batch: usize,
    #[command(flatten)]
    pub(crate) float: FloatArgs,
    #[command(flatten)]
    pub(crate) quantize: QuantizeArgs,
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
    /// Compare every file with its checksum, where the checkpoint has some: `import` writes them
    #[arg(long)]
    pub(crate) verify: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

const EXAMPLES: &str = "\
Examples:
  llama4-cli inspect                                     the demo model
  llama4-cli inspect --model DIR
  llama4-cli inspect --model DIR --context 8192,1000000  how much memory a context takes
  llama4-cli inspect --model DIR --estimate --quantize q4 --context 131072
                                                         what it takes in 4 bits, before importing it
  llama4-cli inspect --model DIR --verify                compare files with their checksums
  llama4-cli inspect --model DIR --json | jq .parameters.total";
