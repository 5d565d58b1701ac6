use serde_json::{Value, json};

use super::*;
use crate::config::HfConfig;
use crate::import::gguf::config::hf_config;
use crate::{Llama4Config, import::gguf::tests::writer::Typed};

/// What llama.cpp's converter writes for Scout, but for the tokenizer's lists.
fn scout() -> Writer {
    let divisors: Vec<f32> = (0..64).map(|pair| if pair < 35 { 1.0 } else { 16.0 }).collect();
    Writer::default()
        .with("general.architecture", "llama4")
        .with("llama4.block_count", 48_u32)
        .with("llama4.context_length", 10_485_760_u32)
        .with("llama4.embedding_length", 5120_u32)
        .with("llama4.feed_forward_length", 16_384_u32)
        .with("llama4.attention.head_count", 40_u32)
        .with("llama4.attention.head_count_kv", 8_u32)
        .with("llama4.attention.key_length", 128_u32)
        .with("llama4.attention.value_length", 128_u32)
        .with("llama4.attention.layer_norm_rms_epsilon", 1e-5_f32)
        .with("llama4.rope.freq_base", 5e5_f32)
        .with("llama4.rope.dimension_count", 128_u32)
        .with("llama4.vocab_size", 202_048_u32)
        .with("llama4.expert_count", 16_u32)
        .with("llama4.expert_used_count", 1_u32)
        .with("llama4.interleave_moe_layer_step", 1_u32)
        .with("llama4.expert_feed_forward_length", 8192_u32)
        .with("tokenizer.ggml.bos_token_id", 200_000_u32)
        .with("tokenizer.ggml.eos_token_id", 200_008_u32)
        .with("tokenizer.ggml.eot_token_id", 200_001_u32)
        .with("tokenizer.ggml.eom_token_id", 200_007_u32)
        .with("tokenizer.ggml.padding_token_id", 200_018_u32)
        .floats("rope_freqs.weight", &divisors)
        .zeros("output.weight", &[1])
}

fn config_of(writer: &Writer) -> Llama4Config {
    let json = hf_config(&open(writer)).unwrap();
    HfConfig::from_json(&json.to_string()).unwrap().to_model_config().unwrap()
}

#[track_caller]
fn assert_refused(writer: &Writer, part: &str) {
    let error = hf_config(&open(writer)).expect_err(part).to_string();
    assert!(error.contains(part), "{error}\nshould say\n{part}");
}

#[test]
fn scout_is_scout() {
    let mut expected = Llama4Config::scout();
    expected.norm_dtype = None;
    assert_eq!(config_of(&scout()), expected);
}

#[test]
fn maverick_is_maverick() {
    let mut writer = scout()
        .with("llama4.expert_count", 128_u32)
        .with("llama4.interleave_moe_layer_step", 2_u32)
        .with("llama4.context_length", 1_048_576_u32);
    writer.tensors.remove(0);
    let mut expected = Llama4Config::maverick();
    expected.norm_dtype = None;
    assert_eq!(config_of(&writer), expected);
}

#[test]
fn without_a_window_every_layer_has_rope_and_sees_everything() {
    let config = config_of(&scout().with("llama4.attention.sliding_window", 0_u32));
    assert_eq!(config.attention_chunk_size, None);
    assert_eq!(config.uses_rope, vec![true; 48]);
    // Any other window is ignored, as llama.cpp does.
    let config = config_of(&scout().with("llama4.attention.sliding_window", 512_u32));
    assert_eq!(config.attention_chunk_size, Some(8192));
    assert_eq!(config.uses_rope[..5], [true, true, true, false, true]);
}

#[test]
fn a_pattern_says_which_layers_are_chunked() {
    let pattern = |period: u32| {
        let writer = scout().with("llama4.block_count", 6_u32).with("llama4.attention.sliding_window_pattern", period);
        let mut writer = writer;
        for index in 0..4 {
            writer = writer.zeros(&format!("tensor {index}"), &[1]);
        }
        config_of(&writer)
    };
    assert_eq!(pattern(3).uses_chunked_attention, [true, true, false, true, true, false]);
    assert_eq!(pattern(1).uses_chunked_attention, [false; 6]);
    assert_eq!(pattern(0).uses_chunked_attention, [true; 6]);
    let rope = [true, true, true, false, true, true];
    for period in [0, 1, 3, 4] {
        assert_eq!(pattern(period).uses_rope, rope, "{period}");
    }
    assert_eq!(pattern(4).uses_chunked_attention, rope);
    let writer = scout().with("llama4.block_count", u32::MAX).with("llama4.attention.sliding_window_pattern", 3_u32);
    assert_refused(&writer, "`llama4.block_count` is 4294967295, but the file has only 2 tensors");
}

#[test]
fn what_the_tensors_say_is_seen() {
    let writer = scout();
    let json = |writer: &Writer| hf_config(&open(writer)).unwrap();
    assert_eq!(json(&writer)["tie_word_embeddings"], false);
    assert_eq!(json(&writer)["attention_bias"], false);
    let mut tied =
        writer.without("llama4.vocab_size").zeros("blk.0.attn_q.bias", &[1]).zeros("token_embd.weight", &[300, 1]);
    tied.tensors.remove(1);
    let json = json(&tied);
    assert_eq!((&json["tie_word_embeddings"], &json["attention_bias"]), (&json!(true), &json!(true)));
    assert_eq!(json["vocab_size"], 300);
}

#[test]
fn absent_keys_with_a_default_have_llama_cpps() {
    let writer = scout()
        .without("llama4.attention.head_count_kv")
        .without("llama4.attention.key_length")
        .without("llama4.attention.value_length")
        .without("llama4.rope.dimension_count")
        .without("llama4.feed_forward_length");
    let config = config_of(&writer);
    assert_eq!((config.num_key_value_heads, config.head_dim), (40, 128));
    assert_refused(&writer.with("llama4.interleave_moe_layer_step", 2_u32), "`llama4.feed_forward_length` is missing");
}

#[test]
fn a_model_without_experts_needs_none() {
    let writer = scout()
        .with("llama4.interleave_moe_layer_step", 0_u32)
        .without("llama4.expert_count")
        .without("llama4.expert_used_count");
    assert_eq!(config_of(&writer).moe_layers, Vec::<usize>::new());
    assert!(config_of(&writer).use_qk_norm);
}

#[test]
fn a_missing_key_is_named() {
    for key in [
        "general.architecture",
        "llama4.block_count",
        "llama4.context_length",
        "llama4.embedding_length",
        "llama4.attention.head_count",
        "llama4.attention.layer_norm_rms_epsilon",
        "llama4.rope.freq_base",
        "llama4.vocab_size",
        "llama4.expert_count",
        "llama4.expert_used_count",
        "llama4.interleave_moe_layer_step",
        "llama4.expert_feed_forward_length",
    ] {
        assert_refused(&scout().without(key), &format!("model.gguf: `{key}` is missing"));
    }
    let odd = scout().without("llama4.attention.key_length").with("llama4.attention.head_count", 3_u32);
    assert_refused(&odd, "`llama4.attention.key_length` is missing");
}

#[test]
fn what_cannot_be_said_in_hugging_faces_form_is_refused() {
    fn case(key: &str, value: impl Into<Typed>, part: &str) {
        assert_refused(&scout().with(key, value), part);
    }
    case(
        "general.architecture",
        "llama",
        "`general.architecture` is \"llama\", which is not supported; supported: llama4",
    );
    case("general.architecture", 4_u32, "`general.architecture` is 4, but a text is wanted");
    case("llama4.attention.value_length", 64_u32, "`llama4.attention.value_length` is 64, which is not supported");
    case("llama4.rope.dimension_count", 64_u32, "`llama4.rope.dimension_count` is 64");
    case("llama4.rope.scaling.factor", 2_f32, "`llama4.rope.scaling.factor` is 2");
    case("llama4.rope.scale_linear", 2_f32, "`llama4.rope.scale_linear` is 2");
    case("llama4.expert_weights_scale", 2.5_f32, "`llama4.expert_weights_scale` is 2.5");
    case("llama4.attention.scale", 1_f32, "`llama4.attention.scale` is 1");
    case("llama4.rope.freq_base_swa", 1e4_f32, "`llama4.rope.freq_base_swa` is 10000");
    case("llama4.rope.freq_base", f32::INFINITY, "`llama4.rope.freq_base` is inf");
    case("llama4.attention.head_count_kv", &[8_u32, 4][..], "`llama4.attention.head_count_kv` is a list of 2");
    case("llama4.embedding_length", -1_i32, "`llama4.embedding_length` is -1");
    // Said, but as it is anyway.
    let same = scout()
        .with("llama4.rope.scaling.factor", 0_f32)
        .with("llama4.expert_weights_scale", 1_f32)
        .with("llama4.attention.scale", (1.0 / 128_f32.sqrt()).to_string().parse::<f64>().unwrap())
        .with("llama4.rope.freq_base_swa", 5e5_f32);
    config_of(&same);
    config_of(&scout().with("llama4.rope.scaling.factor", 2_f32).with("llama4.rope.scaling.type", "none"));
}

#[test]
fn every_token_that_ends_a_text_is_found() {
    let ends = |writer: &Writer| hf_config(&open(writer)).unwrap()["eos_token_id"].clone();
    let bare = scout()
        .without("tokenizer.ggml.eos_token_id")
        .without("tokenizer.ggml.eot_token_id")
        .without("tokenizer.ggml.eom_token_id");
    assert_eq!(ends(&bare), json!([]));
    let tokens = &["a", "<|eom|>", "<|end_of_text|>", "b", "<|eot|>"][..];
    let bare = bare.with("tokenizer.ggml.tokens", tokens);
    assert_eq!(ends(&bare), json!([1, 2, 4]));
    assert_eq!(ends(&bare.clone().with("tokenizer.ggml.eos_token_id", 4_u32)), json!([1, 2, 4]));
    assert_eq!(ends(&bare.clone().with("tokenizer.ggml.eot_token_id", 3_u32)), json!([1, 2, 3]));
    // All bits set: none.
    let none = bare.with("tokenizer.ggml.bos_token_id", u32::MAX).without("tokenizer.ggml.padding_token_id");
    let json = hf_config(&open(&none)).unwrap();
    assert_eq!((&json["bos_token_id"], &json["pad_token_id"]), (&Value::Null, &Value::Null));
}

#[test]
fn divisors_of_the_wrong_number_or_type_are_refused() {
    let with = |shape: &[u64], kind, bytes: usize| {
        let mut writer = scout();
        writer.tensors.remove(0);
        writer.tensor("rope_freqs.weight", kind, shape, vec![0; bytes])
    };
    assert_refused(
        &with(&[32], 0, 128),
        "`rope_freqs.weight` is F32 of shape [32], but heads of 128 have 64 rotated pairs",
    );
    assert_refused(&with(&[64], 26, 256), "`rope_freqs.weight` is I32 of shape [64], but its values are not read");
    assert_refused(&with(&[64], 0, 256), "it must hold finite divisors above 0, not 0");
}
