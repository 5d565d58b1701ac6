use burn::tensor::DType;
use serde_json::{Map, Number, Value, json};

use super::layers::{CHUNKED, FULL};
use crate::config::{Llama3RopeScalingParams, Llama4Config, QuantConfig};

impl Llama4Config {
    /// The model as a flat `config.json` of a `Llama4ForCausalLM`, in transformers' 4.5x spelling, which 5.x reads too.
    /// [`HfConfig`](crate::config::HfConfig) reads it back to an equal configuration.
    ///
    /// Two fields are not said there: `attention_multiplier` always is `1 / sqrt(head_dim)`, and `norm_dtype`, a fact of
    /// the weights, only gives `torch_dtype`. Two values are right here and elsewhere not understood: transformers 4.x has no
    /// `attention_bias` in this model, and 5.23 cannot run one whose `attention_chunk_size` is null.
    pub fn to_hf_json(&self) -> Value {
        let mut text = json!({
            "architectures": ["Llama4ForCausalLM"],
            "attention_bias": self.attention_bias,
            "attention_chunk_size": self.attention_chunk_size,
            "attn_scale": self.attn_scale,
            "attn_temperature_tuning": self.attn_temperature_tuning,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": one_or_many(&self.eos_token_ids),
            "floor_scale": whole_if_possible(self.floor_scale),
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "interleave_moe_layer_step": self.moe_step(),
            "intermediate_size": self.intermediate_size,
            "intermediate_size_mlp": self.intermediate_size_mlp,
            "layer_types": self.layer_types(),
            "max_position_embeddings": self.max_position_embeddings,
            "model_type": "llama4_text",
            "moe_layers": self.moe_layers,
            "no_rope_layer_interval": self.no_rope_interval(),
            "no_rope_layers": self.uses_rope.iter().map(|&rope| u8::from(rope)).collect::<Vec<_>>(),
            "num_attention_heads": self.num_attention_heads,
            "num_experts_per_tok": self.num_experts_per_tok,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "num_local_experts": self.num_local_experts,
            "pad_token_id": self.pad_token_id,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_scaling": self.rope_scaling_params.as_ref().map(rope_scaling),
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "use_qk_norm": self.use_qk_norm,
            "vocab_size": self.vocab_size,
        });
        if let Some(dtype) = self.norm_dtype.and_then(torch_dtype) {
            text["torch_dtype"] = json!(dtype);
        }
        if let Some(quant) = &self.quant_config {
            text["quantization_config"] = quantization_config(quant);
        }
        text
    }

    fn layer_types(&self) -> Vec<&'static str> {
        let word = |&chunked: &bool| if chunked { CHUNKED } else { FULL };
        self.uses_chunked_attention.iter().map(word).collect()
    }

    /// The step that gives `moe_layers`: some readers look only at it. 1 where no step does, 0 where there are none.
    fn moe_step(&self) -> usize {
        if self.moe_layers.is_empty() {
            return 0;
        }
        let layers = self.num_hidden_layers;
        let gives = |&step: &usize| (step - 1..layers).step_by(step).eq(self.moe_layers.iter().copied());
        (1..=layers).find(gives).unwrap_or(1)
    }

    /// The interval that gives `uses_rope`, for readers that ignore the list; transformers' 4 where none does.
    fn no_rope_interval(&self) -> usize {
        let gives = |&interval: &usize| {
            (1..).zip(&self.uses_rope).all(|(number, &rope): (usize, _)| (number % interval != 0) == rope)
        };
        // One more than there are layers means that all use RoPE.
        (1..=self.uses_rope.len() + 1).find(gives).unwrap_or(4)
    }
}

fn rope_scaling(scaling: &Llama3RopeScalingParams) -> Value {
    json!({
        "factor": scaling.factor,
        "high_freq_factor": scaling.high_freq_factor,
        "low_freq_factor": scaling.low_freq_factor,
        "original_max_position_embeddings": scaling.orig_max_position,
        "rope_type": "llama3",
    })
}

fn quantization_config(quant: &QuantConfig) -> Value {
    let mut map = Map::new();
    if let Some(method) = &quant.method {
        map.insert("quant_method".into(), json!(method));
    }
    if let Some(format) = &quant.format {
        map.insert("format".into(), json!(format));
    }
    if let Some(bits) = quant.bits {
        map.insert("bits".into(), json!(bits));
    }
    if let Some(version) = quant.version {
        map.insert("version".into(), json!(version));
    }
    for (key, packing) in [("head", quant.head), ("embedding", quant.embedding)] {
        if let Some(packing) = packing {
            map.insert(key.into(), json!(packing.as_str()));
        }
    }
    Value::Object(map)
}

fn torch_dtype(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::F32 => Some("float32"),
        DType::BF16 => Some("bfloat16"),
        DType::F16 => Some("float16"),
        _ => None,
    }
}

fn one_or_many(ids: &[u32]) -> Value {
    match ids {
        [] => Value::Null,
        [id] => json!(id),
        ids => json!(ids),
    }
}

/// transformers 5 wants `floor_scale` written without a decimal point.
fn whole_if_possible(number: f64) -> Value {
    if number.fract() == 0.0 && (0.0..9.0e15).contains(&number) {
        Value::Number(Number::from(number as u64))
    } else {
        json!(number)
    }
}
