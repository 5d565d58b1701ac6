//! What the programs ask in the same words: what to compute on, and how weights are held.

use anyhow::Result;
use burn::tensor::DType;
use clap::ValueEnum;
use llama4::quant::{Packing, Quantization};

use crate::{BackendKind, Target};

/// What it runs on.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
#[command(next_help_heading = "Backend")]
pub struct BackendArgs {
    /// What computes. The default is the fastest that starts, of those that this program was built with
    #[arg(long, value_enum, value_name = "NAME")]
    pub backend: Option<BackendKind>,
    /// Which of the backend's devices, as `llama4-cli devices` numbers them
    #[arg(long, value_name = "NUMBER")]
    pub device: Option<usize>,
}

impl BackendArgs {
    /// What was chosen.
    ///
    /// # Errors
    /// When it is not there or does not start.
    pub fn target(&self) -> Result<Target> {
        Target::choose(self.backend, self.device)
    }
}

/// Types a model can run in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Float {
    /// 32 bits
    F32,
    /// 16 bits with the range of f32, as Llama 4 is published
    Bf16,
    /// 16 bits, up to 65504; the residual stream and the sums that are added to it are f32
    F16,
}

impl Float {
    /// burn's name for it.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }
}

/// Type of what is not quantised.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct FloatArgs {
    /// Type of activations, and of weights that are not quantised. The default is bf16 on CUDA and f32 elsewhere. The CPU
    /// has no 16-bit floats: there they are what weights are stored in, and computed with in f32
    #[arg(long, value_enum, value_name = "TYPE", help_heading = "Weights")]
    pub dtype: Option<Float>,
}

impl FloatArgs {
    /// What was asked for.
    pub fn asked(self) -> Option<DType> {
        self.dtype.map(Float::dtype)
    }
}

/// What is quantised.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct QuantizeArgs {
    /// Quantise projections and experts to 8 or 4 bits, in blocks of 32. Without it quantised weights stay as they are,
    /// and so do floats
    #[arg(long, value_enum, value_name = "BITS", help_heading = "Weights")]
    pub quantize: Option<Bits>,
    /// The same for the head [default with --quantize: q8]
    #[arg(long, value_enum, value_name = "TYPE", requires = "quantize", help_heading = "Weights")]
    pub head: Option<Storage>,
    /// The same for the embedding, whose rows are only looked up [default with --quantize: bf16]
    #[arg(long, value_enum, value_name = "TYPE", requires = "quantize", help_heading = "Weights")]
    pub embedding: Option<Storage>,
}

/// Bits of a quantised weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Bits {
    /// 8 bits, as GGUF's Q8_0
    Q8,
    /// 4 bits, as GGUF's Q4_0
    Q4,
}

/// How head and embedding are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Storage {
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
    /// What was asked for; `None` leaves every weight as it is.
    pub fn quantization(self) -> Option<Quantization> {
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
