use super::model::{Llama3RopeScalingParams, Llama4Config, MAX_LAYERS};
use crate::error::ConfigError;

/// Sizes are multiplied with each other and end up in 32-bit indices on some devices.
const MAX_SIZE: usize = i32::MAX as usize;

/// More experts than this are refused: lists with an entry per expert are built from the number alone.
const MAX_EXPERTS: usize = 65_536;

type Check = Result<(), ConfigError>;

impl Llama4Config {
    /// Whether a model can be made of it.
    ///
    /// # Errors
    /// The first rule that is broken, with the field and its value: sizes positive, query heads a multiple of key-value
    /// heads, `head_dim` even (rotary pairs), one entry per layer in the per-layer lists, indices of layers and tokens within
    /// their bounds, `1 <= num_experts_per_tok <= num_local_experts` where there are experts, real numbers finite and of
    /// the right sign.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_sizes()?;
        self.validate_layers()?;
        self.validate_experts()?;
        self.validate_numbers()?;
        if let Some(scaling) = &self.rope_scaling_params {
            validate_scaling(scaling)?;
        }
        self.validate_token_ids()
    }

    fn validate_sizes(&self) -> Check {
        for (field, value) in [
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("num_hidden_layers", self.num_hidden_layers),
            ("head_dim", self.head_dim),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ] {
            size(field, value)?;
        }
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        rule(heads.is_multiple_of(kv_heads), "num_attention_heads", heads, || {
            format!("it must be a multiple of `num_key_value_heads`, {kv_heads}")
        })?;
        rule(self.head_dim.is_multiple_of(2), "head_dim", self.head_dim, || {
            "it must be even: rotary embedding turns pairs".into()
        })?;
        if let Some(chunk) = self.attention_chunk_size {
            size("attention_chunk_size", chunk)?;
        }
        Ok(())
    }

    fn validate_layers(&self) -> Check {
        let layers = self.num_hidden_layers;
        rule(layers <= MAX_LAYERS, "num_hidden_layers", layers, || {
            format!("more than {MAX_LAYERS} layers are surely a mistake")
        })?;
        for (field, list) in [("uses_rope", &self.uses_rope), ("uses_chunked_attention", &self.uses_chunked_attention)]
        {
            let found = format!("a list of {}", list.len());
            rule(list.len() == layers, field, found, || {
                format!("it must have one entry for each of the {layers} layers")
            })?;
        }
        let mut seen = vec![false; layers];
        // The list is written out for a message only: once for each of its entries takes minutes.
        let wrong = |rule: String| ConfigError::invalid("moe_layers", format!("{:?}", self.moe_layers), rule);
        for &layer in &self.moe_layers {
            let Some(seen) = seen.get_mut(layer) else {
                return Err(wrong(format!("there is no layer {layer}: they are 0 to {}", layers - 1)));
            };
            if *seen {
                return Err(wrong(format!("layer {layer} must be named once")));
            }
            *seen = true;
        }
        Ok(())
    }

    fn validate_experts(&self) -> Check {
        if self.moe_layers.len() < self.num_hidden_layers {
            size("intermediate_size_mlp", self.intermediate_size_mlp)?;
        }
        if self.moe_layers.is_empty() {
            return Ok(());
        }
        size("intermediate_size", self.intermediate_size)?;
        size("num_local_experts", self.num_local_experts)?;
        let (experts, top_k) = (self.num_local_experts, self.num_experts_per_tok);
        rule(experts <= MAX_EXPERTS, "num_local_experts", experts, || {
            format!("more than {MAX_EXPERTS} experts are surely a mistake")
        })?;
        rule((1..=experts).contains(&top_k), "num_experts_per_tok", top_k, || {
            format!("it must be 1 to `num_local_experts`, {experts}")
        })
    }

    fn validate_numbers(&self) -> Check {
        for (field, value) in [
            ("rope_theta", self.rope_theta),
            ("rms_norm_eps", self.rms_norm_eps),
            ("floor_scale", self.floor_scale),
            ("attention_multiplier", self.attention_multiplier),
        ] {
            positive(field, value)?;
        }
        rule(self.attn_scale.is_finite(), "attn_scale", self.attn_scale, || "it must be finite".into())
    }

    fn validate_token_ids(&self) -> Check {
        let ends = self.eos_token_ids.iter().map(|&id| ("eos_token_id", id));
        let begin = self.bos_token_id.map(|id| ("bos_token_id", id));
        let pad = self.pad_token_id.map(|id| ("pad_token_id", id));
        for (field, id) in begin.into_iter().chain(ends).chain(pad) {
            rule((id as usize) < self.vocab_size, field, id, || {
                format!("it must be below `vocab_size`, {}", self.vocab_size)
            })?;
        }
        Ok(())
    }
}

/// `low == high` is allowed, and what the real Scout has: its middle band is empty.
fn validate_scaling(scaling: &Llama3RopeScalingParams) -> Check {
    let (low, high) = (scaling.low_freq_factor, scaling.high_freq_factor);
    positive("rope_scaling.low_freq_factor", low)?;
    positive("rope_scaling.high_freq_factor", high)?;
    rule(low <= high, "rope_scaling.low_freq_factor", low, || {
        format!("it must be at most `rope_scaling.high_freq_factor`, {high}")
    })?;
    let factor = scaling.factor;
    rule(factor.is_finite() && factor >= 1.0, "rope_scaling.factor", factor, || {
        "it must be finite and at least 1".into()
    })?;
    size("rope_scaling.original_max_position_embeddings", scaling.orig_max_position)
}

fn rule(holds: bool, field: &str, value: impl ToString, rule: impl FnOnce() -> String) -> Check {
    match holds {
        true => Ok(()),
        false => Err(ConfigError::invalid(field, value, rule())),
    }
}

fn size(field: &str, value: usize) -> Check {
    rule((1..=MAX_SIZE).contains(&value), field, value, || format!("it must be 1 to {MAX_SIZE}"))
}

fn positive(field: &str, value: f64) -> Check {
    rule(value.is_finite() && value > 0.0, field, value, || "it must be finite and above 0".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_names_its_field_the_value_and_what_it_should_be() {
        type Break = fn(&mut Llama4Config);
        let cases: &[(Break, &str)] = &[
            (|c| c.hidden_size = 0, "`hidden_size` is 0, but it must be 1 to"),
            (|c| c.vocab_size = 1 << 31, "`vocab_size` is 2147483648, but it must be 1 to 2147483647"),
            (|c| c.num_attention_heads = 0, "`num_attention_heads` is 0"),
            (|c| c.num_key_value_heads = 0, "`num_key_value_heads` is 0"),
            (
                |c| c.num_key_value_heads = 3,
                "`num_attention_heads` is 4, but it must be a multiple of `num_key_value_heads`, 3",
            ),
            (|c| c.head_dim = 7, "`head_dim` is 7, but it must be even"),
            (|c| c.num_hidden_layers = 0, "`num_hidden_layers` is 0"),
            (
                |c| c.num_hidden_layers = 5,
                "`uses_rope` is a list of 4, but it must have one entry for each of the 5 layers",
            ),
            (|c| c.num_hidden_layers = 1 << 20, "`num_hidden_layers` is 1048576"),
            (|c| c.uses_rope = vec![], "`uses_rope` is a list of 0"),
            (|c| c.uses_chunked_attention.push(true), "`uses_chunked_attention` is a list of 5"),
            (|c| c.moe_layers = vec![1, 4], "`moe_layers` is [1, 4], but there is no layer 4: they are 0 to 3"),
            (|c| c.moe_layers = vec![1, 3, 1], "`moe_layers` is [1, 3, 1], but layer 1 must be named once"),
            (|c| c.attention_chunk_size = Some(0), "`attention_chunk_size` is 0"),
            (|c| c.intermediate_size = 0, "`intermediate_size` is 0"),
            (|c| c.intermediate_size_mlp = 0, "`intermediate_size_mlp` is 0"),
            (|c| c.num_local_experts = 0, "`num_local_experts` is 0"),
            (|c| c.num_experts_per_tok = 0, "`num_experts_per_tok` is 0, but it must be 1 to `num_local_experts`, 4"),
            (|c| c.num_experts_per_tok = 5, "`num_experts_per_tok` is 5"),
            (|c| c.rms_norm_eps = 0.0, "`rms_norm_eps` is 0, but it must be finite and above 0"),
            (|c| c.rms_norm_eps = f64::NAN, "`rms_norm_eps` is NaN"),
            (|c| c.rope_theta = f64::INFINITY, "`rope_theta` is inf"),
            (|c| c.floor_scale = 0.0, "`floor_scale` is 0"),
            (|c| c.attn_scale = f64::NEG_INFINITY, "`attn_scale` is -inf"),
            (|c| c.attention_multiplier = -1.0, "`attention_multiplier` is -1"),
            (|c| c.max_position_embeddings = 0, "`max_position_embeddings` is 0"),
            (|c| c.bos_token_id = Some(64), "`bos_token_id` is 64, but it must be below `vocab_size`, 64"),
            (|c| c.eos_token_ids = vec![2, 64], "`eos_token_id` is 64"),
            (|c| c.pad_token_id = Some(99), "`pad_token_id` is 99"),
            (|c| scaling(c).factor = 0.5, "`rope_scaling.factor` is 0.5, but it must be finite and at least 1"),
            (|c| scaling(c).low_freq_factor = 0.0, "`rope_scaling.low_freq_factor` is 0"),
            (
                |c| scaling(c).low_freq_factor = 5.0,
                "`rope_scaling.low_freq_factor` is 5, but it must be at most `rope_scaling.high_freq_factor`, 1",
            ),
            (|c| scaling(c).high_freq_factor = f64::NAN, "`rope_scaling.high_freq_factor` is NaN"),
            (|c| scaling(c).orig_max_position = 0, "`rope_scaling.original_max_position_embeddings` is 0"),
        ];
        for (break_it, message) in cases {
            let mut config = Llama4Config::tiny_dense_and_moe();
            break_it(&mut config);
            let error = config.validate().expect_err(message).to_string();
            assert!(error.contains(message), "{error}\nshould say\n{message}");
        }
    }

    fn scaling(config: &mut Llama4Config) -> &mut Llama3RopeScalingParams {
        let scout = Llama4Config::scout().rope_scaling_params;
        config.rope_scaling_params = scout;
        config.rope_scaling_params.as_mut().unwrap()
    }

    #[test]
    fn low_equal_to_high_is_allowed() {
        let mut config = Llama4Config::tiny_moe();
        let scaling = scaling(&mut config);
        assert_eq!(scaling.low_freq_factor, scaling.high_freq_factor);
        config.validate().unwrap();
    }

    #[test]
    fn a_width_that_no_layer_has_may_be_anything() {
        let mut dense = Llama4Config::tiny_dense_and_moe();
        dense.moe_layers.clear();
        (dense.intermediate_size, dense.num_local_experts, dense.num_experts_per_tok) = (0, 0, 0);
        dense.validate().unwrap();
        let mut moe = Llama4Config::tiny_moe();
        moe.intermediate_size_mlp = 0;
        moe.validate().unwrap();
    }
}
