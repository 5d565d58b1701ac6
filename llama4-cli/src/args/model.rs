use std::path::PathBuf;

use clap::ValueEnum;

use crate::backend::BackendKind;

/// Which model.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// Folder of a checkpoint: config.json, weights, tokenizer.json. Without it the small demo model that is part of
    /// this program
    #[arg(short, long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
}

/// What it runs on.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Backend")]
pub(crate) struct BackendArgs {
    /// What computes. The default is the fastest one that this program was built with
    #[arg(long, value_enum, value_name = "NAME", default_value_t)]
    pub(crate) backend: BackendKind,
    /// Type of weights and activations. The default is the checkpoint's own where the backend has it, else f32
    #[arg(long, value_enum, value_name = "TYPE")]
    pub(crate) dtype: Option<Precision>,
}

/// Types a model can run in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Precision {
    /// 32 bits
    F32,
    /// 16 bits with the range of f32, as Llama 4 is published
    Bf16,
    /// 16 bits, up to 65504
    F16,
}
