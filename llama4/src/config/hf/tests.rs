use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::Llama3RopeScalingParams;

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
        }),
        ..p1()
    };
    assert_eq!(golden("p7_fp8_experts"), p7);
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
fn other_architectures_are_named() {
    for (file, part) in [
        (with(json!({"model_type": "llama"})), "`model_type` is \"llama\""),
        (with(json!({"model_type": "mixtral"})), "\"mixtral\""),
        (json!({"model_type": "gemma3", "text_config": smallest()}), "`model_type` is \"gemma3\""),
        (
            json!({"model_type": "llama4", "text_config": with(json!({"model_type": "qwen3"}))}),
            "`text_config.model_type` is \"qwen3\"",
        ),
        (json!({"hidden_size": 64}), "`model_type` is missing"),
        (json!({"architectures": ["LlamaForCausalLM"], "intermediate_size_mlp": 1}), "LlamaForCausalLM"),
        (with(json!({"model_type": 4})), "`model_type` is 4"),
    ] {
        let error = read(&file).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    let mut file = smallest();
    file.as_object_mut().unwrap().shift_remove("model_type");
    assert!(read(&file).is_ok());
    file["architectures"] = json!(["Llama4ForCausalLM"]);
    assert!(read(&file).is_ok());
}

#[test]
fn errors_name_the_key_its_value_and_the_rule() {
    for (changes, part) in [
        (json!({"hidden_act": "gelu"}), "`hidden_act` is \"gelu\", which is not supported; supported: silu"),
        (json!({"hidden_size": "64"}), "`hidden_size` is \"64\", but a whole number is wanted"),
        (json!({"hidden_size": 64.5}), "`hidden_size` is 64.5"),
        (json!({"hidden_size": -64}), "`hidden_size` is -64"),
        (json!({"hidden_size": null}), "`hidden_size` is missing"),
        (json!({"num_hidden_layers": 1_000_000_000_000_u64}), "`num_hidden_layers` is 1000000000000"),
        (json!({"num_hidden_layers": 0}), "`num_hidden_layers` is 0"),
        (json!({"num_attention_heads": 0}), "`num_attention_heads`, 0"),
        (json!({"num_key_value_heads": 3}), "`num_attention_heads` is 4"),
        (json!({"moe_layers": [7]}), "`moe_layers` is [7], but there is no layer 7"),
        (json!({"moe_layers": [-1]}), "`moe_layers` is -1"),
        (json!({"num_experts_per_tok": 17}), "`num_experts_per_tok` is 17"),
        (json!({"rms_norm_eps": "1e-5"}), "`rms_norm_eps` is \"1e-5\", but a number is wanted"),
        (json!({"rope_scaling": {"type": "yarn"}}), "`rope_scaling.type` is \"yarn\""),
        (json!({"quantization_config": 8}), "`quantization_config` is 8"),
    ] {
        let error = read(&with(changes.clone())).unwrap_err();
        assert!(error.contains(part), "{error}\nshould say\n{part}");
        let nested = json!({"model_type": "llama4", "text_config": with(changes)});
        let error = read(&nested).unwrap_err();
        let key = part.trim_start_matches('`').split(['`', '.']).next().unwrap();
        assert!(error.contains(key), "{error}\nshould name\n{key}");
    }
    for key in ["hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "vocab_size"] {
        let mut file = smallest();
        file.as_object_mut().unwrap().shift_remove(key);
        assert_eq!(read(&file).unwrap_err(), format!("`{key}` is missing; it has no default"));
        let nested = json!({"model_type": "llama4", "text_config": file});
        let error = read(&nested).unwrap_err();
        assert_eq!(error, format!("`text_config.{key}` is missing; it has no default"));
    }
    let dense = with(json!({"moe_layers": [], "intermediate_size_mlp": null}));
    assert!(read(&dense).unwrap_err().contains("`intermediate_size_mlp` is missing"));
}

#[test]
fn files_are_named_in_errors() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    let name = file.display().to_string();
    let message = || HfConfig::from_file(&file).unwrap_err().to_string();
    assert!(message().starts_with(&format!("cannot read {name}: ")), "{}", message());
    for (text, part) in [("{\"hidden_size\": ", "not a JSON object: EOF"), ("[1]", "not a JSON object"), ("", "EOF")] {
        std::fs::write(&file, text).unwrap();
        let message = message();
        assert!(message.starts_with(&name) && message.contains(part), "{message}");
    }
    std::fs::write(&file, with(json!({"hidden_size": 0})).to_string()).unwrap();
    let error = HfConfig::from_file(&file).unwrap().to_model_config().unwrap_err().to_string();
    assert_eq!(error, format!("{name}: `hidden_size` is 0, but it must be 1 to 2147483647"));
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
        Some(QuantConfig { method: method.map(Into::into), format: format.map(Into::into), bits })
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

    #[test]
    fn no_file_makes_it_panic(
        key in proptest::sample::select(smallest().as_object().unwrap().keys().cloned().chain(KEYS.map(String::from)).collect::<Vec<_>>()),
        value in values(),
    ) {
        let _ = read(&with(json!({key.as_str(): value.clone()})));
        let _ = read(&json!({"model_type": "llama4", "text_config": with(json!({key.as_str(): value.clone()})), key.as_str(): value}));
    }
}

const KEYS: [&str; 16] = [
    "text_config",
    "architectures",
    "moe_layers",
    "interleave_moe_layer_step",
    "no_rope_layers",
    "no_rope_layer_interval",
    "layer_types",
    "head_dim",
    "num_key_value_heads",
    "rope_scaling",
    "rope_parameters",
    "attention_chunk_size",
    "eos_token_id",
    "floor_scale",
    "quantization_config",
    "num_experts_per_tok",
];

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-3i64..9).prop_map(Value::from),
        proptest::sample::select(vec!["llama3", "default", "chunked_attention", "silu", ""]).prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::vec(inner, 0..4).prop_map(|values| {
                let keys = ["rope_type", "factor", "config_groups", "quant_method"].map(String::from);
                Value::Object(keys.into_iter().zip(values).collect())
            }),
        ]
    })
}
