use burn::tensor::DType;
use serde_json::{Value, json};

use super::{golden, p1, read, smallest, with};
use crate::config::{HfConfig, Llama3RopeScalingParams, Llama4Config, QuantConfig};

#[test]
fn goldens_are_read_as_the_reference_reads_them() {
    assert_eq!(golden("p1_scout_like"), p1());
    let p2 = Llama4Config {
        intermediate_size: 32,
        intermediate_size_mlp: 80,
        num_local_experts: 8,
        moe_layers: vec![1, 3],
        use_qk_norm: false,
        ..p1()
    };
    assert_eq!(golden("p2_maverick_like"), p2);
    let p3 = Llama4Config { attention_chunk_size: Some(16), ..p1() };
    assert_eq!(golden("p3_chunked"), p3);
    let p4 = Llama4Config {
        uses_rope: vec![true, false, true, false],
        uses_chunked_attention: vec![true, false, true, false],
        floor_scale: 4.0,
        attn_scale: 0.5,
        ..p1()
    };
    assert_eq!(golden("p4_temperature"), p4);
    let p5 = Llama4Config {
        num_key_value_heads: 1,
        rope_theta: 10_000.0,
        rope_scaling_params: Some(Llama3RopeScalingParams {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            orig_max_position: 64,
        }),
        attention_bias: true,
        tie_word_embeddings: true,
        ..p1()
    };
    assert_eq!(golden("p5_ropescaled_bias_tied_gqa4"), p5);
    let p6 = Llama4Config { intermediate_size: 40, num_local_experts: 6, attention_chunk_size: Some(16), ..p1() };
    assert_eq!(golden("p6_batch_padded"), p6);
    let p7 = Llama4Config {
        intermediate_size: 32,
        moe_layers: vec![1, 3],
        use_qk_norm: false,
        quant_config: Some(QuantConfig {
            method: Some("compressed-tensors".into()),
            format: Some("float-quantized".into()),
            bits: Some(8),
            ..QuantConfig::default()
        }),
        ..p1()
    };
    assert_eq!(golden("p7_fp8_experts"), p7);
}

#[test]
fn absent_keys_have_the_defaults_of_transformers() {
    let expected = Llama4Config {
        num_key_value_heads: 4,
        num_local_experts: 16,
        max_position_embeddings: 131_072,
        bos_token_id: None,
        eos_token_ids: vec![],
        pad_token_id: None,
        ..p1()
    };
    assert_eq!(read(&smallest()), Ok(expected));
}

#[test]
fn nested_and_flat_mean_the_same() {
    let nested = json!({
        "architectures": ["Llama4ForConditionalGeneration"],
        "model_type": "llama4",
        "text_config": smallest(),
        "vision_config": {"hidden_size": 16, "model_type": "llama4_vision_model"},
    });
    assert_eq!(read(&nested), read(&smallest()));
    assert!(HfConfig::from_json(&nested.to_string()).unwrap().is_nested());
}

#[test]
fn what_is_beside_the_nested_text_counts_where_the_text_is_silent() {
    let file = |text: Value| {
        json!({"model_type": "llama4", "text_config": with(text), "tie_word_embeddings": true,
            "eos_token_id": 9, "pad_token_id": 8})
    };
    let silent = read(&file(json!({}))).unwrap();
    assert!(silent.tie_word_embeddings);
    assert_eq!((silent.eos_token_ids, silent.pad_token_id), (vec![9], Some(8)));
    let speaking = json!({"tie_word_embeddings": false, "eos_token_id": [5], "pad_token_id": 4});
    let speaking = read(&file(speaking)).unwrap();
    assert!(speaking.tie_word_embeddings);
    assert_eq!((speaking.eos_token_ids, speaking.pad_token_id), (vec![5], Some(4)));
}

#[test]
fn token_ids_are_one_many_or_none() {
    let ids = |id: Value| read(&with(json!({"eos_token_id": id}))).map(|c| c.eos_token_ids);
    assert_eq!(ids(json!(7)), Ok(vec![7]));
    assert_eq!(ids(json!([7, 8])), Ok(vec![7, 8]));
    assert_eq!(ids(json!([])), Ok(vec![]));
    assert_eq!(ids(Value::Null), Ok(vec![]));
    assert_eq!(ids(json!(-1)), Ok(vec![]));
    assert!(ids(json!("</s>")).unwrap_err().contains("`eos_token_id` is \"</s>\""));
    assert!(ids(json!([1, -2])).unwrap_err().contains("`eos_token_id` is -2"));
    assert!(ids(json!(512)).unwrap_err().contains("below `vocab_size`, 512"));
    let pad = |id: Value| read(&with(json!({"pad_token_id": id}))).map(|c| c.pad_token_id);
    assert_eq!(pad(Value::Null), Ok(None));
    assert_eq!(pad(json!(-1)), Ok(None));
    assert_eq!(pad(json!(3)), Ok(Some(3)));
}

#[test]
fn temperature_tuning_is_a_flag_or_a_number() {
    let tuning = |value: Value| {
        let config = read(&with(json!({"attn_temperature_tuning": value})));
        config.map(|config| config.attn_temperature_tuning)
    };
    assert_eq!(tuning(json!(true)), Ok(true));
    assert_eq!(tuning(json!(4)), Ok(true));
    assert_eq!(tuning(json!(4.0)), Ok(true));
    assert_eq!(tuning(json!(false)), Ok(false));
    assert_eq!(tuning(json!(0)), Ok(false));
    assert_eq!(tuning(Value::Null), Ok(false));
    assert!(tuning(json!("on")).unwrap_err().contains("`attn_temperature_tuning` is \"on\""));
}

#[test]
fn a_chunk_size_of_null_is_no_chunk_and_an_absent_one_8192() {
    let chunk = |file: Value| read(&file).unwrap().attention_chunk_size;
    assert_eq!(chunk(smallest()), Some(8192));
    assert_eq!(chunk(with(json!({"attention_chunk_size": null}))), None);
    assert_eq!(chunk(with(json!({"attention_chunk_size": 32.0}))), Some(32));
    let error = read(&with(json!({"attention_chunk_size": 0}))).unwrap_err();
    assert!(error.contains("`attention_chunk_size` is 0"), "{error}");
}

#[test]
fn guard_is_read_without_dividing_by_its_step_of_zero() {
    let guard = with(json!({
        "moe_layers": [],
        "interleave_moe_layer_step": 0,
        "num_local_experts": 0,
        "no_rope_layers": vec![1; 48],
        "attention_chunk_size": null,
    }));
    let config = read(&guard).unwrap();
    assert!(config.moe_layers.is_empty());
    assert!(config.uses_rope.iter().all(|&rope| rope));
    // No layer has experts, so nothing says how wide they are.
    let mut guard = guard;
    guard.as_object_mut().unwrap().shift_remove("intermediate_size");
    assert_eq!(read(&guard).unwrap().intermediate_size, 96);
}

#[test]
fn head_dim_is_its_own_key_or_what_the_width_leaves() {
    let head_dim = |file: Value| read(&file).map(|config| config.head_dim);
    assert_eq!(head_dim(with(json!({"head_dim": 8}))), Ok(8));
    assert_eq!(head_dim(with(json!({"head_dim": null}))), Ok(16));
    let error = head_dim(with(json!({"num_attention_heads": 3}))).unwrap_err();
    assert!(error.contains("`hidden_size` is 64") && error.contains("3"), "{error}");
    let config = read(&with(json!({"head_dim": 8}))).unwrap();
    assert_eq!(config.attention_multiplier, 1.0 / 8f64.sqrt());
}

#[test]
fn stored_types_are_read_from_either_key() {
    let dtype = |file: Value| HfConfig::from_json(&file.to_string()).unwrap().dtype();
    assert_eq!(dtype(smallest()), None);
    assert_eq!(dtype(with(json!({"torch_dtype": "bfloat16"}))), Some(DType::BF16));
    assert_eq!(dtype(with(json!({"dtype": "torch.float16"}))), Some(DType::F16));
    assert_eq!(dtype(with(json!({"dtype": "float8_e4m3fn"}))), None);
    let nested = json!({"model_type": "llama4", "text_config": smallest(), "dtype": "float32"});
    assert_eq!(dtype(nested), Some(DType::F32));
}

#[test]
fn quantisation_is_read_and_not_judged() {
    let quant = |quant: Value| read(&with(json!({"quantization_config": quant}))).unwrap().quant_config;
    let found = |method: Option<&str>, format: Option<&str>, bits| {
        Some(QuantConfig { method: method.map(Into::into), format: format.map(Into::into), bits, ..Default::default() })
    };
    assert_eq!(quant(Value::Null), None);
    assert_eq!(quant(json!({"quant_method": "gptq", "bits": 4})), found(Some("gptq"), None, Some(4)));
    assert_eq!(quant(json!({"quant_method": "fbgemm_fp8"})), found(Some("fbgemm_fp8"), None, None));
    let bitsandbytes = json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "load_in_8bit": false});
    assert_eq!(quant(bitsandbytes), found(Some("bitsandbytes"), None, Some(4)));
    assert_eq!(quant(json!({})), found(None, None, None));
    let fp8 = golden("p7_fp8_experts").quant_config.unwrap();
    assert_eq!(fp8.to_string(), "compressed-tensors float-quantized 8-bit");
}
