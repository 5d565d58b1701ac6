use burn::tensor::DType;

use super::pipeline::same_cache_type;
use super::{HfConfig, KvCacheParams, Llama4Config, PipelineConfig};
use crate::error::ConfigError;

/// What a checkpoint's tensors say that its `config.json` does not.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundWeights {
    /// Type in which the norm weights are stored (that of the first layer's `input_layernorm.weight`).
    pub norm_dtype: Option<DType>,
    /// Whether there is a `lm_head.weight`.
    pub has_lm_head: bool,
    /// Whether some weights are quantised: they come with scales, or in a type of 8 bits or fewer.
    pub quantized: bool,
}

/// From a file to a model: the steps and names of MAX's `Llama4Config`.
impl Llama4Config {
    /// The model that `hf` describes, to be run as `pipeline` asks.
    ///
    /// # Errors
    /// When either is invalid, or they do not fit: a longer sequence than the model has positions, hidden states of layers
    /// that it lacks.
    pub fn initialize(pipeline: &PipelineConfig, hf: &HfConfig) -> Result<Self, ConfigError> {
        pipeline.validate()?;
        Self::initialize_from_config(pipeline, hf)
    }

    /// [`initialize`](Self::initialize) without a look at what concerns `pipeline` alone.
    ///
    /// # Errors
    /// When `hf` is invalid, or the two do not fit.
    pub fn initialize_from_config(pipeline: &PipelineConfig, hf: &HfConfig) -> Result<Self, ConfigError> {
        let config = hf.to_model_config()?;
        config.max_seq_len(pipeline)?;
        pipeline.return_hidden_states.validate(config.num_hidden_layers)?;
        Ok(config)
    }

    /// Takes over what the weights found decide: the norms' type; that the head shares the embedding's weight where the
    /// checkpoint has no head of its own; that nothing is quantised where no weight is.
    ///
    /// # Errors
    /// When weights are quantised and `config.json` does not say how.
    pub fn finalize(&mut self, found: &FoundWeights) -> Result<(), ConfigError> {
        if found.quantized && self.quant_config.is_none() {
            let rule = "the checkpoint has quantised weights, and it must say how they are to be read";
            return Err(ConfigError::invalid("quantization_config", "absent", rule));
        }
        if !found.quantized {
            self.quant_config = None;
        }
        if !found.has_lm_head && !self.tie_word_embeddings {
            tracing::warn!(
                "the checkpoint has no lm_head.weight; the head shares the embedding's weight, though `tie_word_embeddings` is false"
            );
            self.tie_word_embeddings = true;
        }
        self.norm_dtype = found.norm_dtype;
        Ok(())
    }

    /// The longest sequence: what the user asks for, or all positions that the model has.
    ///
    /// # Errors
    /// When the user asks for more than the model has.
    pub fn calculate_max_seq_len(pipeline: &PipelineConfig, hf: &HfConfig) -> Result<usize, ConfigError> {
        max_seq_len(pipeline, hf.max_position_embeddings()?)
    }

    /// [`calculate_max_seq_len`](Self::calculate_max_seq_len) of a model that is already read.
    ///
    /// # Errors
    /// When the user asks for more than the model has.
    pub fn max_seq_len(&self, pipeline: &PipelineConfig) -> Result<usize, ConfigError> {
        max_seq_len(pipeline, self.max_position_embeddings)
    }

    /// What decides the size of the cache, for a model whose activations have type `dtype`.
    ///
    /// # Errors
    /// When the user asks for more positions than the model has, or for another type of cache.
    pub fn construct_kv_params(&self, pipeline: &PipelineConfig, dtype: DType) -> Result<KvCacheParams, ConfigError> {
        same_cache_type(pipeline.kv_cache.kv_cache_format.unwrap_or(dtype), dtype)?;
        Ok(KvCacheParams {
            num_layers: self.num_hidden_layers,
            n_kv_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            dtype,
            max_seq_len: self.max_seq_len(pipeline)?,
            max_batch_size: pipeline.max_batch_size,
            windows: (0..self.num_hidden_layers).map(|layer| self.chunk_size(layer)).collect(),
        })
    }

    /// Width of a head: `head_dim`, else `hidden_size / num_attention_heads`.
    ///
    /// # Errors
    /// When the file has neither, or the division leaves a rest.
    pub fn get_head_dim(hf: &HfConfig) -> Result<usize, ConfigError> {
        hf.head_dim()
    }

    /// Decoder layers.
    ///
    /// # Errors
    /// When the file does not say.
    pub fn get_num_layers(hf: &HfConfig) -> Result<usize, ConfigError> {
        hf.num_layers()
    }
}

fn max_seq_len(pipeline: &PipelineConfig, positions: usize) -> Result<usize, ConfigError> {
    match pipeline.max_seq_len {
        None => Ok(positions),
        Some(wanted) if wanted <= positions => Ok(wanted),
        Some(wanted) => Err(ConfigError::invalid(
            "max_seq_len",
            wanted,
            format!("it must be at most the model's `max_position_embeddings`, {positions}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{QuantConfig, ReturnHiddenStates};

    fn hf(config: &Llama4Config) -> HfConfig {
        HfConfig::from_json(&config.to_hf_json().to_string()).unwrap()
    }

    fn pipeline(max_seq_len: Option<usize>) -> PipelineConfig {
        PipelineConfig { max_seq_len, ..PipelineConfig::default() }
    }

    #[test]
    fn a_sequence_is_as_long_as_asked_for_up_to_the_models_positions() {
        let hf = hf(&Llama4Config::tiny_moe());
        let length = |wanted| Llama4Config::calculate_max_seq_len(&pipeline(wanted), &hf);
        assert_eq!(length(None).unwrap(), 256);
        assert_eq!(length(Some(256)).unwrap(), 256);
        assert_eq!(length(Some(7)).unwrap(), 7);
        let error = length(Some(257)).unwrap_err().to_string();
        assert!(error.contains("257") && error.contains("256"), "{error}");
        assert!(Llama4Config::initialize(&pipeline(Some(257)), &hf).is_err());
    }

    #[test]
    fn the_model_and_the_wishes_are_checked_together() {
        let tiny = Llama4Config::tiny_moe();
        let hf = hf(&tiny);
        assert_eq!(Llama4Config::initialize(&pipeline(Some(9)), &hf).unwrap(), tiny);
        let mut wish = pipeline(None);
        wish.return_hidden_states = ReturnHiddenStates::SelectedLayers(vec![4]);
        let error = Llama4Config::initialize(&wish, &hf).unwrap_err().to_string();
        assert!(error.contains("0 to 3"), "{error}");
        let mut wish = pipeline(None);
        wish.data_parallel_degree = 2;
        assert!(Llama4Config::initialize(&wish, &hf).is_err());
        assert!(Llama4Config::initialize_from_config(&wish, &hf).is_ok());
        assert_eq!(Llama4Config::get_head_dim(&hf).unwrap(), 8);
        assert_eq!(Llama4Config::get_num_layers(&hf).unwrap(), 4);
    }

    #[test]
    fn the_weights_found_decide_type_tie_and_quantisation() {
        let found = FoundWeights { norm_dtype: Some(DType::BF16), has_lm_head: true, quantized: false };
        let mut config = Llama4Config::tiny_moe();
        config.finalize(&found).unwrap();
        assert_eq!(config.norm_dtype, Some(DType::BF16));
        assert!(!config.tie_word_embeddings);

        let headless = FoundWeights { has_lm_head: false, ..found.clone() };
        config.finalize(&headless).unwrap();
        assert!(config.tie_word_embeddings);
        // A head that the file has is not used where the configuration ties.
        config.finalize(&found).unwrap();
        assert!(config.tie_word_embeddings);

        let quantized = FoundWeights { quantized: true, ..found.clone() };
        let error = config.finalize(&quantized).unwrap_err().to_string();
        assert!(error.contains("quantization_config"), "{error}");
        config.quant_config = Some(QuantConfig::default());
        config.finalize(&quantized).unwrap();
        assert!(config.quant_config.is_some());
        config.finalize(&found).unwrap();
        assert_eq!(config.quant_config, None);
    }

    #[test]
    fn the_cache_has_the_models_type_and_windows() {
        let tiny = Llama4Config::tiny_chunked();
        let mut wish = pipeline(Some(10));
        wish.max_batch_size = 3;
        let params = tiny.construct_kv_params(&wish, DType::F32).unwrap();
        assert_eq!(params.windows, [Some(4), None, Some(4), None]);
        // 2 chunked layers of 4 slots, 2 full ones of 10; keys and values of 2 heads of 8 in 4 bytes; 3 rows.
        assert_eq!(params.bytes(), 3 * (2 * 4 + 2 * 10) * 2 * 2 * 8 * 4);
        assert_eq!(params.bytes_at(3), 4 * 3 * 2 * 2 * 8 * 4);
        wish.kv_cache.kv_cache_format = Some(DType::BF16);
        let error = tiny.construct_kv_params(&wish, DType::F32).unwrap_err().to_string();
        assert!(error.contains("`kv_cache_format` is bf16"), "{error}");
    }
}
