use super::{Llama3RopeScalingParams, Llama4Config};
use crate::error::ConfigError;

/// Every fourth layer goes without RoPE and attends over everything.
const INTERVAL: usize = 4;

impl Llama4Config {
    /// Llama 4 Scout 17B-16E Instruct: every layer a mixture of 16 experts; 107.77e9 parameters.
    pub fn scout() -> Self {
        Self { rope_scaling_params: Some(scout_scaling()), ..Self::released(16, (0..48).collect()) }
    }

    /// Llama 4 Maverick 17B-128E Instruct: every second layer a mixture of 128 experts, no QK norm; 400.71e9 parameters.
    pub fn maverick() -> Self {
        Self {
            use_qk_norm: false,
            max_position_embeddings: 1_048_576,
            ..Self::released(128, (1..48).step_by(2).collect())
        }
    }

    /// Llama Guard 4 12B: Scout pruned to its shared experts, so a dense model, RoPE and full attention in every layer;
    /// 11.13e9 parameters.
    ///
    /// Not seen in its own file but taken from Scout: head width, QK norm and rope scaling. `max_position_embeddings` is the
    /// length it is served with.
    pub fn guard4() -> Self {
        Self {
            rope_scaling_params: Some(scout_scaling()),
            intermediate_size_mlp: 8192,
            uses_rope: vec![true; 48],
            uses_chunked_attention: vec![true; 48],
            attention_chunk_size: None,
            max_position_embeddings: 163_840,
            ..Self::released(0, Vec::new())
        }
    }

    /// For benchmarks on CPUs: Scout's shape at a hundredth of its size, 16 layers, each a mixture of 8 experts; 1.01e9 parameters, of
    /// which a generated token reads 0.28e9. A chunk of 8192, as in every file that llama.cpp runs.
    pub fn cpu() -> Self {
        let uses_rope: Vec<bool> = (1..=16).map(|number| number % INTERVAL != 0).collect();
        Self {
            hidden_size: 1024,
            num_attention_heads: 16,
            num_key_value_heads: 4,
            num_hidden_layers: 16,
            head_dim: 64,
            intermediate_size: 2048,
            intermediate_size_mlp: 4096,
            vocab_size: 32_000,
            uses_chunked_attention: uses_rope.clone(),
            uses_rope,
            attention_multiplier: Self::attention_multiplier_for(64),
            max_position_embeddings: 32_768,
            bos_token_id: Some(1),
            eos_token_ids: vec![2],
            pad_token_id: None,
            ..Self::released(8, (0..16).collect())
        }
    }

    /// The same model with its first `layers` layers alone.
    ///
    /// # Errors
    /// When it has fewer, or none are asked for.
    pub fn with_layers(mut self, layers: usize) -> Result<Self, ConfigError> {
        if layers == 0 || layers > self.num_hidden_layers {
            let rule = format!("the model has {} layers", self.num_hidden_layers);
            return Err(ConfigError::invalid("num_hidden_layers", layers, rule));
        }
        self.num_hidden_layers = layers;
        self.moe_layers.retain(|layer| *layer < layers);
        self.uses_rope.truncate(layers);
        self.uses_chunked_attention.truncate(layers);
        Ok(self)
    }

    /// What the released models have in common.
    fn released(experts: usize, moe_layers: Vec<usize>) -> Self {
        let uses_rope: Vec<bool> = (1..=48).map(|number| number % INTERVAL != 0).collect();
        Self {
            hidden_size: 5120,
            num_attention_heads: 40,
            num_key_value_heads: 8,
            num_hidden_layers: 48,
            head_dim: 128,
            rope_theta: 500_000.0,
            rope_scaling_params: None,
            intermediate_size: 8192,
            intermediate_size_mlp: 16_384,
            vocab_size: 202_048,
            num_local_experts: experts,
            num_experts_per_tok: 1,
            moe_layers,
            uses_chunked_attention: uses_rope.clone(),
            uses_rope,
            attention_chunk_size: Some(8192),
            use_qk_norm: true,
            attn_temperature_tuning: true,
            floor_scale: 8192.0,
            attn_scale: 0.1,
            attention_bias: false,
            attention_multiplier: Self::attention_multiplier_for(128),
            rms_norm_eps: 1e-5,
            norm_dtype: None,
            tie_word_embeddings: false,
            max_position_embeddings: 10_485_760,
            bos_token_id: Some(200_000),
            eos_token_ids: vec![200_001, 200_007, 200_008],
            pad_token_id: Some(200_018),
            quant_config: None,
        }
    }

    /// For tests: Scout's shape, 4 layers, each a mixture of 4 experts; the last goes without RoPE. A chunk of 8.
    pub fn tiny_moe() -> Self {
        Self {
            hidden_size: 32,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            num_hidden_layers: 4,
            head_dim: 8,
            rope_theta: 10_000.0,
            intermediate_size: 48,
            intermediate_size_mlp: 64,
            vocab_size: 64,
            uses_rope: vec![true, true, true, false],
            uses_chunked_attention: vec![true, true, true, false],
            attention_chunk_size: Some(8),
            attention_multiplier: Self::attention_multiplier_for(8),
            max_position_embeddings: 256,
            bos_token_id: Some(1),
            eos_token_ids: vec![2, 3],
            pad_token_id: Some(0),
            ..Self::released(4, vec![0, 1, 2, 3])
        }
    }

    /// For tests: Maverick's shape, dense and mixture-of-experts layers in turn, no QK norm.
    pub fn tiny_dense_and_moe() -> Self {
        Self { moe_layers: vec![1, 3], use_qk_norm: false, ..Self::tiny_moe() }
    }

    /// For tests: a chunk of 4, RoPE in every second layer only, and a temperature that rises every third position, so
    /// that a short text shows every kind of attention.
    pub fn tiny_chunked() -> Self {
        Self {
            uses_rope: vec![true, false, true, false],
            uses_chunked_attention: vec![true, false, true, false],
            attention_chunk_size: Some(4),
            floor_scale: 3.0,
            attn_scale: 0.5,
            ..Self::tiny_moe()
        }
    }

    /// For tests: Guard's shape, dense layers, RoPE and full attention everywhere.
    pub fn tiny_dense() -> Self {
        Self {
            moe_layers: Vec::new(),
            num_local_experts: 0,
            uses_rope: vec![true; 4],
            uses_chunked_attention: vec![true; 4],
            attention_chunk_size: None,
            ..Self::tiny_moe()
        }
    }
}

fn scout_scaling() -> Llama3RopeScalingParams {
    Llama3RopeScalingParams { factor: 16.0, low_freq_factor: 1.0, high_freq_factor: 1.0, orig_max_position: 8192 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid() {
        for config in [
            Llama4Config::scout(),
            Llama4Config::maverick(),
            Llama4Config::guard4(),
            Llama4Config::cpu(),
            Llama4Config::tiny_moe(),
            Llama4Config::tiny_dense_and_moe(),
            Llama4Config::tiny_chunked(),
            Llama4Config::tiny_dense(),
        ] {
            config.validate().unwrap();
        }
    }

    #[test]
    fn parameters_are_as_many_as_released() {
        for (config, billions) in
            [(Llama4Config::scout(), 107.77), (Llama4Config::maverick(), 400.71), (Llama4Config::guard4(), 11.13)]
        {
            let total = config.parameter_count().total() as f64 / 1e9;
            assert!((total - billions).abs() < 0.005, "{total} vs {billions}");
        }
        // "17B active" is the name of both.
        for config in [Llama4Config::scout(), Llama4Config::maverick()] {
            let active = config.parameter_count().active() as f64 / 1e9;
            assert!((active - 17.2).abs() < 0.1, "{active}");
        }
    }

    #[test]
    fn the_model_for_cpus_is_as_large_as_its_gguf() {
        let count = Llama4Config::cpu().parameter_count();
        // 0.276e9 are read for a token: all that are active but the embedding, of which one row is.
        let millions = |count: u64| (count as f64 / 1e6).round();
        assert_eq!((millions(count.total()), millions(count.active() - count.embedding)), (1014.0, 276.0));
    }

    #[test]
    fn the_released_models_differ_where_their_files_do() {
        let (scout, maverick) = (Llama4Config::scout(), Llama4Config::maverick());
        assert!(scout.use_qk_norm && !maverick.use_qk_norm);
        assert_eq!(scout.rope_scaling_params, Some(scout_scaling()));
        assert_eq!(maverick.rope_scaling_params, None);
        assert!(scout.is_moe(0) && !maverick.is_moe(0) && maverick.is_moe(47));
    }

    #[test]
    fn layers_without_rope_see_everything() {
        let scout = Llama4Config::scout();
        let full: Vec<usize> = (0..48).filter(|&l| scout.chunk_size(l).is_none()).collect();
        assert_eq!(full, [3, 7, 11, 15, 19, 23, 27, 31, 35, 39, 43, 47]);
        assert!((0..48).all(|layer| Llama4Config::guard4().chunk_size(layer).is_none()));
        assert_eq!(scout.chunk_size(48), None);
    }
}
