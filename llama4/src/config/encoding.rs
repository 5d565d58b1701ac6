use std::fmt;
use std::str::FromStr;

use burn::tensor::DType;

use super::words::words;
use crate::error::ConfigError;

/// How the weights are encoded when the model runs; MAX's `SupportedEncoding`, all its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SupportedEncoding {
    /// 32-bit floats.
    Float32,
    /// 16-bit floats of IEEE 754.
    Float16,
    /// 16-bit floats with the exponent of 32-bit ones.
    Bfloat16,
    /// GGUF's 4-bit K blocks.
    Q4K,
    /// GGUF's 4-bit blocks.
    Q40,
    /// GGUF's 6-bit K blocks.
    Q6K,
    /// 8-bit floats, 4 exponent bits.
    Float8E4m3fn,
    /// 4-bit floats, two in a byte.
    Float4E2m1fnx2,
    /// 6-bit floats.
    Float6E2m3fn,
    /// 4-bit integers in GPTQ's groups.
    Gptq,
}

words!(SupportedEncoding, "quantization_encoding", {
    Float32 = "float32",
    Float16 = "float16",
    Bfloat16 = "bfloat16",
    Q4K = "q4_k",
    Q40 = "q4_0",
    Q6K = "q6_k",
    Float8E4m3fn = "float8_e4m3fn",
    Float4E2m1fnx2 = "float4_e2m1fnx2",
    Float6E2m3fn = "float6_e2m3fn",
    Gptq = "gptq",
});

impl SupportedEncoding {
    /// The type of the tensors, for the encodings that the model runs in; `None` for the others.
    pub fn dtype(&self) -> Option<DType> {
        match self {
            Self::Float32 => Some(DType::F32),
            Self::Float16 => Some(DType::F16),
            Self::Bfloat16 => Some(DType::BF16),
            _ => None,
        }
    }
}

/// Block quantisation of the weights; MAX's `QuantizationEncoding`, all its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuantizationEncoding {
    /// GGUF's 4-bit blocks.
    Q40,
    /// GGUF's 4-bit K blocks.
    Q4K,
    /// GGUF's 5-bit K blocks.
    Q5K,
    /// GGUF's 6-bit K blocks.
    Q6K,
    /// 4-bit integers in GPTQ's groups.
    Gptq,
}

words!(QuantizationEncoding, "model_quantization_encoding", {
    Q40 = "q4_0",
    Q4K = "q4_k",
    Q5K = "q5_k",
    Q6K = "q6_k",
    Gptq = "gptq",
});

/// Settings of GPTQ weights; MAX's `QuantizationConfig`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantizationConfig {
    /// `gptq`.
    pub quant_method: String,
    /// Bits of a weight.
    pub bits: usize,
    /// Weights that share a scale.
    pub group_size: usize,
    /// Columns in order of decreasing activation.
    pub desc_act: bool,
    /// Zero is in the middle of the range.
    pub sym: bool,
}

impl fmt::Display for QuantizationConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { quant_method, bits, group_size, .. } = self;
        write!(f, "{quant_method} {bits}-bit in groups of {group_size}")
    }
}

/// Which device the model runs on. The library is handed burn's own device value; this is what a user says, for the
/// program that chooses a backend to resolve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceRef {
    /// `default`: the backend's own choice.
    #[default]
    Default,
    /// `cpu`.
    Cpu,
    /// `gpu:0`; `gpu` is the first.
    Gpu(usize),
}

impl fmt::Display for DeviceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Cpu => f.write_str("cpu"),
            Self::Gpu(index) => write!(f, "gpu:{index}"),
        }
    }
}

impl FromStr for DeviceRef {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let word = text.trim().to_ascii_lowercase();
        let device = match word.as_str() {
            "default" => Some(Self::Default),
            "cpu" => Some(Self::Cpu),
            "gpu" => Some(Self::Gpu(0)),
            _ => word.strip_prefix("gpu:").and_then(|index| index.parse().ok()).map(Self::Gpu),
        };
        device.ok_or_else(|| ConfigError::unsupported("devices", format!("\"{text}\""), "default, cpu, gpu:N"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back() {
        for encoding in SupportedEncoding::ALL {
            assert_eq!(encoding.as_str().parse::<SupportedEncoding>().unwrap(), *encoding);
        }
        for encoding in QuantizationEncoding::ALL {
            assert_eq!(encoding.as_str().parse::<QuantizationEncoding>().unwrap(), *encoding);
        }
        for device in [DeviceRef::Default, DeviceRef::Cpu, DeviceRef::Gpu(3)] {
            assert_eq!(device.to_string().parse::<DeviceRef>().unwrap(), device);
        }
        assert_eq!("Float8-E4M3FN".parse::<SupportedEncoding>().unwrap(), SupportedEncoding::Float8E4m3fn);
        assert_eq!("GPU".parse::<DeviceRef>().unwrap(), DeviceRef::Gpu(0));
    }

    #[test]
    fn an_unknown_word_is_answered_with_the_known_ones() {
        let error = "fp16".parse::<SupportedEncoding>().unwrap_err().to_string();
        assert!(error.contains("`quantization_encoding` is \"fp16\""), "{error}");
        assert!(error.contains("float16, bfloat16"), "{error}");
        for text in ["gpu:", "gpu:x", "tpu", ""] {
            assert!(text.parse::<DeviceRef>().is_err(), "{text}");
        }
    }
}
