use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{read, smallest, with};
use crate::config::HfConfig;

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
        (json!({"num_local_experts": 2_000_000_000}), "`num_local_experts` is 2000000000"),
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

proptest! {
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

#[test]
fn many_layers_do_not_take_time_by_their_square() {
    let started = Instant::now();
    let config = read(&with(json!({"num_hidden_layers": 65_536}))).unwrap();
    assert_eq!(config.moe_layers.len(), 65_536);
    // The width of dense layers is missing, and whether there is one is seen at the end of a long list.
    let layers: Vec<usize> = (1..65_536).chain(std::iter::repeat_n(1, 300_000)).collect();
    let mut file = with(json!({"num_hidden_layers": 65_536, "moe_layers": layers}));
    file.as_object_mut().unwrap().shift_remove("intermediate_size_mlp");
    assert_eq!(read(&file).unwrap_err(), "`intermediate_size_mlp` is missing; it has no default");
    file["moe_layers"] = json!((0..65_536).rev().collect::<Vec<usize>>());
    assert_eq!(read(&file).unwrap().moe_layers.len(), 65_536);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}
