use burn::tensor::DType;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{golden, read};
use crate::config::{Llama3RopeScalingParams, Llama4Config};

#[test]
fn presets_and_goldens_are_read_back_from_what_is_written() {
    let mut configs = vec![
        Llama4Config::scout(),
        Llama4Config::maverick(),
        Llama4Config::guard4(),
        Llama4Config::tiny_moe(),
        Llama4Config::tiny_dense_and_moe(),
        Llama4Config::tiny_chunked(),
        Llama4Config::tiny_dense(),
    ];
    configs.extend(["p5_ropescaled_bias_tied_gqa4", "p7_fp8_experts"].map(golden));
    for config in configs {
        assert_eq!(read(&config.to_hf_json()), Ok(config));
    }
}

#[test]
fn written_steps_give_the_lists_beside_them() {
    // Some readers look at the step and the interval only.
    for config in [Llama4Config::scout(), Llama4Config::maverick(), Llama4Config::guard4()] {
        let mut file = config.to_hf_json();
        file["moe_layers"] = Value::Null;
        file["no_rope_layers"] = json!([]);
        file["layer_types"] = Value::Null;
        assert_eq!(read(&file), Ok(config));
    }
    let file = Llama4Config::maverick().to_hf_json();
    assert_eq!(file["interleave_moe_layer_step"], 2);
    assert_eq!(file["no_rope_layer_interval"], 4);
    assert_eq!(file["floor_scale"].to_string(), "8192");
}

#[test]
fn lists_that_no_step_gives_have_the_default_step_beside_them() {
    let mut config = Llama4Config::tiny_moe();
    config.moe_layers = vec![0, 3];
    config.uses_rope = vec![false, true, true, false];
    let file = config.to_hf_json();
    assert_eq!((&file["interleave_moe_layer_step"], &file["no_rope_layer_interval"]), (&json!(1), &json!(4)));
    assert_eq!(read(&file), Ok(config));
}

#[test]
fn the_norms_type_is_written_as_the_models() {
    let mut config = Llama4Config::tiny_moe();
    assert_eq!(config.to_hf_json().get("torch_dtype"), None);
    config.norm_dtype = Some(DType::BF16);
    assert_eq!(config.to_hf_json()["torch_dtype"], "bfloat16");
}

/// Valid configurations of all shapes; real numbers of few digits, as people write them.
fn configs() -> impl Strategy<Value = Llama4Config> {
    let sizes = (1usize..200, 1usize..5, 1usize..5, 1usize..40, 1usize..300, 1usize..300, 10usize..1000);
    let switches = any::<[bool; 4]>();
    let numbers = (1u32..10_000_000, 1u32..1_000_000, -1000i32..1000, 1u32..1000);
    let scaling = proptest::option::of((1u32..64, 1u32..8, 0u32..8, 1usize..100_000));
    let layers = (1usize..12).prop_flat_map(|layers| {
        let flags = || proptest::collection::vec(any::<bool>(), layers);
        (flags(), flags(), flags())
    });
    let chunk = proptest::option::of(1usize..10_000);
    let ids =
        (proptest::option::of(0u32..10), proptest::collection::vec(0u32..10, 0..4), proptest::option::of(0u32..10));
    let experts = (1usize..20, 1usize..20, 1usize..10_000_000);
    (sizes, switches, numbers, scaling, layers, chunk, ids, experts).prop_map(
        |(sizes, switches, numbers, scaling, layers, chunk, ids, experts)| {
            let (hidden, kv_heads, group, half_head, inter, dense, vocab) = sizes;
            let (theta, floor, attn_scale, eps) = numbers;
            let (moe, uses_rope, uses_chunked_attention) = layers;
            Llama4Config {
                hidden_size: hidden,
                num_attention_heads: kv_heads * group,
                num_key_value_heads: kv_heads,
                num_hidden_layers: moe.len(),
                head_dim: 2 * half_head,
                rope_theta: f64::from(theta) / 8.0,
                rope_scaling_params: scaling.map(|(factor, low, more, orig_max_position)| Llama3RopeScalingParams {
                    factor: 1.0 + f64::from(factor) / 4.0,
                    low_freq_factor: f64::from(low) / 2.0,
                    high_freq_factor: f64::from(low + more) / 2.0,
                    orig_max_position,
                }),
                intermediate_size: inter,
                intermediate_size_mlp: dense,
                vocab_size: vocab,
                num_local_experts: experts.0.max(experts.1),
                num_experts_per_tok: experts.0.min(experts.1),
                moe_layers: (0..moe.len()).filter(|&layer| moe[layer]).collect(),
                uses_rope,
                uses_chunked_attention,
                attention_chunk_size: chunk,
                use_qk_norm: switches[0],
                attn_temperature_tuning: switches[1],
                floor_scale: f64::from(floor) / 4.0,
                attn_scale: f64::from(attn_scale) / 1000.0,
                attention_bias: switches[2],
                attention_multiplier: Llama4Config::attention_multiplier_for(2 * half_head),
                rms_norm_eps: f64::from(eps) / 1e8,
                norm_dtype: None,
                tie_word_embeddings: switches[3],
                max_position_embeddings: experts.2,
                bos_token_id: ids.0,
                eos_token_ids: ids.1,
                pad_token_id: ids.2,
                quant_config: None,
            }
        },
    )
}

proptest! {
    #[test]
    fn any_model_is_read_back_from_what_is_written(config in configs()) {
        prop_assert!(config.validate().is_ok(), "{:?}", config.validate());
        prop_assert_eq!(read(&config.to_hf_json()), Ok(config));
    }
}
