use burn::tensor::DType;

use super::{
    DeviceRef, KvCacheConfig, QuantizationConfig, QuantizationEncoding, ReturnHiddenStates, ReturnLogits,
    SupportedEncoding,
};
use crate::error::ConfigError;

/// How a model is to be run: the fields of MAX's `Llama4Config` and `Llama4Model` that are no facts of the model, under the
/// same names. The default runs one sequence, in the type of the checkpoint, and returns the last token's logits.
///
/// Every field can be said; what is not supported yet is refused by [`validate`](Self::validate), by name.
#[derive(Debug, Clone, PartialEq)]
pub struct PipelineConfig {
    /// Longest sequence, prompt and answer together (`max_length` of the user). `None` is the model's
    /// `max_position_embeddings`.
    pub max_seq_len: Option<usize>,
    /// Sequences at a time.
    pub max_batch_size: usize,
    /// Type of weights and activations: `f32`, `f16` or `bf16`. `None` is the checkpoint's.
    pub dtype: Option<DType>,
    /// Encoding of the weights. Float encodings say the same as `dtype`; the others are not supported yet.
    pub quantization_encoding: Option<SupportedEncoding>,
    /// Block quantisation of the weights. Not supported yet.
    pub model_quantization_encoding: Option<QuantizationEncoding>,
    /// Settings of GPTQ weights. Not supported.
    pub quantization_config: Option<QuantizationConfig>,
    /// Devices; one.
    pub devices: Vec<DeviceRef>,
    /// Copies of the model, each serving its own sequences; one.
    pub data_parallel_degree: usize,
    /// Which positions get logits.
    pub return_logits: ReturnLogits,
    /// Which hidden states come back.
    pub return_hidden_states: ReturnHiddenStates,
    /// The cache of keys and values.
    pub kv_cache: KvCacheConfig,
}

impl Default for PipelineConfig {
    fn default() -> Self {
        Self {
            max_seq_len: None,
            max_batch_size: 1,
            dtype: None,
            quantization_encoding: None,
            model_quantization_encoding: None,
            quantization_config: None,
            devices: vec![DeviceRef::Default],
            data_parallel_degree: 1,
            return_logits: ReturnLogits::LastToken,
            return_hidden_states: ReturnHiddenStates::None,
            kv_cache: KvCacheConfig::default(),
        }
    }
}

impl PipelineConfig {
    /// The type of weights and activations that is asked for, by `dtype` or by a float encoding.
    pub fn compute_dtype(&self) -> Option<DType> {
        self.dtype.or_else(|| self.quantization_encoding.and_then(|encoding| encoding.dtype()))
    }

    /// What can be said without knowing the model.
    ///
    /// # Errors
    /// The first value that makes no sense or is not supported.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (field, value) in [
            ("max_seq_len", self.max_seq_len.unwrap_or(1)),
            ("max_batch_size", self.max_batch_size),
            ("data_parallel_degree", self.data_parallel_degree),
        ] {
            if value == 0 {
                return Err(ConfigError::invalid(field, value, "it must be at least 1"));
            }
        }
        self.validate_types()?;
        match self.devices.len() {
            0 => return Err(ConfigError::invalid("devices", "[]", "a device is needed")),
            1 => {}
            _ => {
                let devices: Vec<_> = self.devices.iter().map(ToString::to_string).collect();
                return Err(ConfigError::unsupported("devices", devices.join(", "), "one device"));
            }
        }
        if self.data_parallel_degree > 1 {
            let degree = self.data_parallel_degree;
            return Err(ConfigError::unsupported("data_parallel_degree", degree, "1"));
        }
        self.return_logits.validate()?;
        // The model's depth is not known here.
        self.return_hidden_states.validate(usize::MAX)?;
        self.kv_cache.validate()
    }

    fn validate_types(&self) -> Result<(), ConfigError> {
        const FLOATS: &str = "float32, float16, bfloat16";
        if let Some(dtype) = self.dtype
            && !matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
        {
            return Err(ConfigError::unsupported("dtype", dtype.name(), FLOATS));
        }
        if let Some(encoding) = self.quantization_encoding {
            let Some(encoded) = encoding.dtype() else {
                return Err(ConfigError::unsupported("quantization_encoding", encoding, FLOATS));
            };
            if let Some(dtype) = self.dtype
                && dtype != encoded
            {
                let rule = format!("`dtype` is {}; say one of the two", dtype.name());
                return Err(ConfigError::invalid("quantization_encoding", encoding, rule));
            }
        }
        if let Some(encoding) = self.model_quantization_encoding {
            let field = "model_quantization_encoding";
            return Err(ConfigError::unsupported(field, encoding, "none"));
        }
        if let Some(config) = &self.quantization_config {
            return Err(ConfigError::unsupported("quantization_config", config, "none"));
        }
        if let (Some(cache), Some(dtype)) = (self.kv_cache.kv_cache_format, self.compute_dtype()) {
            same_cache_type(cache, dtype)?;
        }
        Ok(())
    }
}

/// The cache holds keys and values as the model makes them.
pub(super) fn same_cache_type(cache: DType, model: DType) -> Result<(), ConfigError> {
    if cache == model {
        return Ok(());
    }
    let supported = format!("{}, the model's own type", model.name());
    Err(ConfigError::unsupported("kv_cache_format", cache.name(), supported))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        type Break = fn(&mut PipelineConfig);
        let gptq = |p: &mut PipelineConfig| {
            p.quantization_config = Some(QuantizationConfig {
                quant_method: "gptq".into(),
                bits: 4,
                group_size: 128,
                desc_act: false,
                sym: true,
            });
        };
        let cases: &[(Break, &str)] = &[
            (|p| p.max_seq_len = Some(0), "`max_seq_len` is 0"),
            (|p| p.max_batch_size = 0, "`max_batch_size` is 0"),
            (|p| p.data_parallel_degree = 0, "`data_parallel_degree` is 0"),
            (|p| p.data_parallel_degree = 2, "`data_parallel_degree` is 2, which is not supported; supported: 1"),
            (|p| p.devices.clear(), "`devices` is []"),
            (
                |p| p.devices = vec![DeviceRef::Gpu(0), DeviceRef::Gpu(1)],
                "`devices` is gpu:0, gpu:1, which is not supported",
            ),
            (|p| p.dtype = Some(DType::I32), "`dtype` is i32"),
            (|p| p.dtype = Some(DType::F64), "`dtype` is f64"),
            (|p| p.quantization_encoding = Some(SupportedEncoding::Q4K), "`quantization_encoding` is q4_k"),
            (|p| p.quantization_encoding = Some(SupportedEncoding::Float8E4m3fn), "float8_e4m3fn"),
            (
                |p| (p.dtype, p.quantization_encoding) = (Some(DType::F32), Some(SupportedEncoding::Bfloat16)),
                "`quantization_encoding` is bfloat16, but `dtype` is f32",
            ),
            (
                |p| p.model_quantization_encoding = Some(QuantizationEncoding::Q40),
                "`model_quantization_encoding` is q4_0",
            ),
            (gptq, "`quantization_config` is gptq 4-bit in groups of 128"),
            (|p| p.return_logits = ReturnLogits::Variable(0), "`return_logits` is variable:0"),
            (|p| p.return_hidden_states = ReturnHiddenStates::SelectedLayers(vec![]), "`return_hidden_states`"),
            (|p| p.kv_cache.enable_prefix_caching = true, "`enable_prefix_caching` is true"),
            (
                |p| (p.dtype, p.kv_cache.kv_cache_format) = (Some(DType::F32), Some(DType::BF16)),
                "`kv_cache_format` is bf16, which is not supported; supported: f32, the model's own type",
            ),
        ];
        PipelineConfig::default().validate().unwrap();
        for (break_it, message) in cases {
            let mut pipeline = PipelineConfig::default();
            break_it(&mut pipeline);
            let error = pipeline.validate().expect_err(message).to_string();
            assert!(error.contains(message), "{error}\nshould say\n{message}");
        }
    }

    #[test]
    fn a_float_encoding_says_the_type() {
        let mut pipeline = PipelineConfig::default();
        assert_eq!(pipeline.compute_dtype(), None);
        pipeline.quantization_encoding = Some(SupportedEncoding::Float16);
        pipeline.validate().unwrap();
        assert_eq!(pipeline.compute_dtype(), Some(DType::F16));
        pipeline.dtype = Some(DType::F16);
        pipeline.validate().unwrap();
    }
}
