use std::fmt;

use anyhow::{Context, Result};
use burn::tensor::DType;
use clap::ValueEnum;
use llama4::Llama4Config;
use llama4::config::HfConfig;
use llama4::quant::{Packing, Quantization};

/// Shapes of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Preset {
    /// The demo model of llama4-cli: 6 layers, 7 M parameters
    Demo,
    /// For CPUs: 16 layers with 8 experts, 1.014 G parameters
    Cpu,
    /// Llama 4 Scout 17B-16E: 48 layers, 107.8 G parameters
    Scout,
    /// Llama 4 Maverick 17B-128E: 48 layers, 400.7 G parameters
    Maverick,
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Demo => "demo",
            Self::Cpu => "cpu",
            Self::Scout => "scout",
            Self::Maverick => "maverick",
        })
    }
}

impl Preset {
    pub(crate) fn config(self) -> Result<Llama4Config> {
        Ok(match self {
            Self::Demo => HfConfig::from_json(include_str!("../../../fixtures/demo/config.json"))
                .and_then(|config| config.to_model_config())
                .context("the demo model's config.json")?,
            Self::Cpu => Llama4Config::cpu(),
            Self::Scout => Llama4Config::scout(),
            Self::Maverick => Llama4Config::maverick(),
        })
    }
}

/// How weights are held.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
#[command(next_help_heading = "Weights")]
pub(crate) struct WeightArgs {
    /// Type of activations, and of weights that are not quantised. The default is bf16 on CUDA and f32 elsewhere. The CPU
    /// has no 16-bit floats: there they are what weights are stored in, and computed with in f32
    #[arg(long, value_enum, value_name = "TYPE")]
    dtype: Option<Float>,
    /// Quantise projections and experts to 8 or 4 bits, in blocks of 32
    #[arg(long, value_enum, value_name = "BITS")]
    quantize: Option<Bits>,
    /// The same for the head [default with --quantize: q8]
    #[arg(long, value_enum, value_name = "TYPE", requires = "quantize")]
    head: Option<Storage>,
    /// The same for the embedding, whose rows are only looked up [default with --quantize: bf16]
    #[arg(long, value_enum, value_name = "TYPE", requires = "quantize")]
    embedding: Option<Storage>,
}

/// Types that a model can run in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Float {
    /// 32 bits
    F32,
    /// 16 bits with the range of f32
    Bf16,
    /// 16 bits, up to 65504
    F16,
}

/// Bits of a quantised weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bits {
    /// 8 bits, as GGUF's Q8_0
    Q8,
    /// 4 bits, as GGUF's Q4_0
    Q4,
}

/// How head and embedding are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Storage {
    /// 8 bits
    Q8,
    /// 4 bits
    Q4,
    /// 16 bits
    Bf16,
}

impl WeightArgs {
    pub(crate) fn dtype(self) -> Option<DType> {
        self.dtype.map(|dtype| match dtype {
            Float::F32 => DType::F32,
            Float::Bf16 => DType::BF16,
            Float::F16 => DType::F16,
        })
    }

    pub(crate) fn quantization(self) -> Option<Quantization> {
        let mut quantization = match self.quantize? {
            Bits::Q8 => Quantization::q8(),
            Bits::Q4 => Quantization::q4(),
        };
        let packing = |storage| match storage {
            Storage::Q8 => Packing::Q8,
            Storage::Q4 => Packing::Q4,
            Storage::Bf16 => Packing::Bf16,
        };
        quantization.head = self.head.map_or(quantization.head, packing);
        quantization.embedding = self.embedding.map_or(quantization.embedding, packing);
        Some(quantization)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_named_as_typed() {
        for preset in Preset::value_variants() {
            preset.config().unwrap().validate().unwrap();
            let typed = preset.to_possible_value().unwrap();
            assert_eq!(typed.get_name(), preset.to_string());
        }
    }
}
