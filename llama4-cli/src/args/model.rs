use std::path::PathBuf;

use llama4_backends::{FloatArgs, QuantizeArgs};

/// Which model.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// Folder of a checkpoint: config.json, weights, tokenizer.json; Meta's params.json and consolidated.*.pth; or a GGUF
    /// file. Without it the small demo model that is part of this program
    #[arg(short, long, value_name = "PATH")]
    pub(crate) model: Option<PathBuf>,
}

/// How weights are held.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Weights")]
pub(crate) struct WeightArgs {
    #[command(flatten)]
    pub(crate) float: FloatArgs,
    #[command(flatten)]
    pub(crate) quantize: QuantizeArgs,
    /// Folder of a LoRA adapter in PEFT's format, for this model: adapter_config.json and adapter_model.safetensors
    #[arg(long, value_name = "DIR")]
    pub(crate) lora: Option<PathBuf>,
    /// Start even if the model will not fit in memory
    #[arg(long)]
    pub(crate) force: bool,
}
