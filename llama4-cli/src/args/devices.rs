/// Say what this program can compute on
///
/// For each backend that it was built with: the device, the types it has, and which implementation of each operation
/// runs there.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = "`llama4-cli devices --help` has examples.")]
pub(crate) struct DevicesArgs {
    /// Print one JSON object a line for each backend
    #[arg(long)]
    pub(crate) json: bool,
}

const EXAMPLES: &str = "\
Examples:
  llama4-cli devices
  llama4-cli devices --json | jq -r .backend

The backend marked (default) is used where --backend is not given.
Backends are features of the build:
  cargo build --release -p llama4-cli --features cuda";
