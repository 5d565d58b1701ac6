use std::path::PathBuf;

use anyhow::Result;
use burn::tensor::DType;
use clap::ValueEnum;
use llama4::quant::{Packing, Quantization};
use llama4_backends::{BackendKind, Target};

/// Which model.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// Folder of a checkpoint: config.json, weights, tokenizer.json; Meta's params.json and consolidated.*.pth; or a GGUF
    /// file. Without it the small demo model that is part of this program
    #[arg(short, long, value_name = "PATH")]
    pub(crate) model: Option<PathBuf>,
}

/// What it runs on.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Backend")]
pub(crate) struct BackendArgs {
    /// What computes. The default is the fastest that starts, of those that this program was built with
    #[arg(long, value_enum, value_name = "NAME")]
    pub(crate) backend: Option<BackendKind>,
    /// Which of the backend's devices, as `devices` numbers them
    #[arg(long, value_name = "NUMBER")]
    pub(crate) device: Option<usize>,
}

impl BackendArgs {
    /// What was chosen.
    ///
    /// # Errors
    /// When it is not there or does not start.
    pub(crate) fn target(&self) -> Result<Target> {
        Target::choose(self.backend, self.device)
    }
}

/// How weights are held.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Weights")]
pub(crate) struct WeightArgs {
    /// Type of activations, and of weights that are not quantised. The default is bf16 on CUDA and f32 elsewhere. The CPU
    /// has no 16-bit floats: there they are what weights are stored in, and computed with in f32
    #[arg(long, value_enum, value_name = "TYPE")]
    pub(crate) dtype: Option<Precision>,
    #[command(flatten)]
    pub(crate) quantize: QuantizeArgs,
    /// Folder of a LoRA adapter in PEFT's format, for this model: adapter_config.json and adapter_model.safetensors
    #[arg(long, value_name = "DIR")]
    pub(crate) lora: Option<PathBuf>,
    /// Start even if the model will not fit in memory
    #[arg(long)]
    pub(crate) force: bool,
}

/// What is quantised.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct QuantizeArgs {
    /// Quantise projections and experts to 8 or 4 bits, in blocks of 32. Without it quantised weights stay as they are,
    /// and so do floats
    #[arg(long, value_enum, value_name = "BITS", help_heading = "Weights")]
    pub(crate) quantize: Option<Bits>,
    /// The same for the head [default with --quantize: q8]
    #[arg(long, value_enum, value_name = "TYPE", requires = "quantize", help_heading = "Weights")]
    pub(crate) head: Option<Storage>,
    /// The same for the embedding, whose rows are only looked up [default with --quantize: bf16]
    #[arg(long, value_enum, value_name = "TYPE", requires = "quantize", help_heading = "Weights")]
    pub(crate) embedding: Option<Storage>,
}

/// Bits of a quantised weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Bits {
    /// 8 bits, as GGUF's Q8_0
    Q8,
    /// 4 bits, as GGUF's Q4_0
    Q4,
}

/// How head and embedding are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Storage {
    /// 8 bits
    Q8,
    /// 4 bits
    Q4,
    /// 16 bits with the range of f32
    Bf16,
    /// 16 bits, up to 65504
    F16,
}

impl QuantizeArgs {
    pub(crate) fn quantization(self) -> Option<Quantization> {
        let mut quantization = match self.quantize? {
            Bits::Q8 => Quantization::q8(),
            Bits::Q4 => Quantization::q4(),
        };
        let packing = |storage| match storage {
            Storage::Q8 => Packing::Q8,
            Storage::Q4 => Packing::Q4,
            Storage::Bf16 => Packing::Bf16,
            Storage::F16 => Packing::F16,
        };
        quantization.head = self.head.map_or(quantization.head, packing);
        quantization.embedding = self.embedding.map_or(quantization.embedding, packing);
        Some(quantization)
    }
}

impl Precision {
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }
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
