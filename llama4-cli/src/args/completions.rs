/// Write a script that completes this command line in a shell
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

const EXAMPLES: &str = "\
Examples:
  source <(llama4-cli completions bash)
  llama4-cli completions zsh > ~/.zfunc/_llama4-cli
  llama4-cli completions fish > ~/.config/fish/completions/llama4-cli.fish";
