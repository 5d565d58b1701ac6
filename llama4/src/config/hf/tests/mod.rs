//! What is read, refused and written; here what the three share.

mod errors;
mod reading;
mod writing;

use std::path::PathBuf;

use serde_json::{Value, json};

use super::HfConfig;
use crate::config::Llama4Config;

fn golden(name: &str) -> Llama4Config {
    let fixtures = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures"));
    let file = fixtures.join("goldens").join(name).join("config.json");
    let hf = HfConfig::from_file(&file).unwrap();
    assert_eq!(hf.file(), Some(file.as_path()));
    hf.to_model_config().unwrap()
}

/// The fields of p1, which the other goldens vary.
fn p1() -> Llama4Config {
    Llama4Config {
        hidden_size: 64,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        num_hidden_layers: 4,
        head_dim: 16,
        rope_theta: 500_000.0,
        rope_scaling_params: None,
        intermediate_size: 48,
        intermediate_size_mlp: 96,
        vocab_size: 512,
        num_local_experts: 4,
        num_experts_per_tok: 1,
        moe_layers: vec![0, 1, 2, 3],
        uses_rope: vec![true, true, true, false],
        uses_chunked_attention: vec![true, true, true, false],
        attention_chunk_size: Some(8192),
        use_qk_norm: true,
        attn_temperature_tuning: true,
        floor_scale: 8192.0,
        attn_scale: 0.1,
        attention_bias: false,
        attention_multiplier: 0.25,
        rms_norm_eps: 1e-5,
        norm_dtype: None,
        tie_word_embeddings: false,
        max_position_embeddings: 4096,
        bos_token_id: Some(1),
        eos_token_ids: vec![2, 3],
        pad_token_id: Some(0),
        quant_config: None,
    }
}

/// The smallest file that says all that has no default.
fn smallest() -> Value {
    json!({
        "model_type": "llama4_text",
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "intermediate_size": 48,
        "intermediate_size_mlp": 96,
        "vocab_size": 512,
    })
}

fn with(changes: Value) -> Value {
    let mut text = smallest();
    for (key, value) in changes.as_object().unwrap() {
        text[key] = value.clone();
    }
    text
}

fn read(file: &Value) -> Result<Llama4Config, String> {
    let hf = HfConfig::from_json(&file.to_string()).map_err(|error| error.to_string())?;
    hf.to_model_config().map_err(|error| error.to_string())
}
