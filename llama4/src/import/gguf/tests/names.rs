use std::time::{Duration, Instant};

use super::*;
use crate::Llama4Config;
use crate::import::gguf::names::{Values, named};
use crate::import::{Layout, expected_tensors};

/// A layer's tensors with ggml's names: shapes of a model with hidden size 8, 2 experts of width 4.
const LAYER: [(&str, &[u64]); 14] = [
    ("attn_norm.weight", &[8]),
    ("attn_q.weight", &[8, 8]),
    ("attn_k.weight", &[4, 8]),
    ("attn_v.weight", &[4, 8]),
    ("attn_output.weight", &[8, 8]),
    ("ffn_norm.weight", &[8]),
    ("ffn_gate_inp.weight", &[2, 8]),
    ("ffn_gate_exps.weight", &[2, 4, 8]),
    ("ffn_up_exps.weight", &[2, 4, 8]),
    ("ffn_down_exps.weight", &[2, 8, 4]),
    ("ffn_gate_shexp.weight", &[4, 8]),
    ("ffn_up_shexp.weight", &[4, 8]),
    ("ffn_down_shexp.weight", &[8, 4]),
    ("attn_q.bias", &[8]),
];

const DENSE: [(&str, &[u64]); 3] =
    [("ffn_gate.weight", &[6, 8]), ("ffn_up.weight", &[6, 8]), ("ffn_down.weight", &[8, 6])];

/// One dense layer and one with experts.
fn model() -> Writer {
    let mut writer = Writer::default()
        .zeros("token_embd.weight", &[16, 8])
        .zeros("output_norm.weight", &[8])
        .zeros("output.weight", &[16, 8])
        .zeros("rope_freqs.weight", &[2]);
    for (name, shape) in LAYER.iter().take(6).chain(&DENSE) {
        writer = writer.zeros(&format!("blk.0.{name}"), shape);
    }
    for (name, shape) in LAYER.iter().take(13) {
        writer = writer.zeros(&format!("blk.1.{name}"), shape);
    }
    writer
}

fn config() -> Llama4Config {
    let mut config = Llama4Config::tiny_dense_and_moe();
    config.num_hidden_layers = 2;
    config.moe_layers = vec![1];
    (config.hidden_size, config.vocab_size, config.head_dim) = (8, 16, 4);
    (config.num_attention_heads, config.num_key_value_heads, config.num_local_experts) = (2, 1, 2);
    (config.intermediate_size, config.intermediate_size_mlp) = (4, 6);
    config.tie_word_embeddings = false;
    config
}

#[test]
fn every_parameter_of_a_model_has_its_tensors() {
    let named = named(&open(&model()).tensors).unwrap();
    assert_eq!(named.unknown, Vec::<String>::new());
    let expected = expected_tensors(&config());
    assert_eq!(named.tensors.len(), expected.len());
    for expected in expected {
        let found = named.tensors.iter().find(|tensor| tensor.name == expected.name);
        let found = found.unwrap_or_else(|| panic!("{} is missing", expected.name));
        let mut shape = expected.shape.clone();
        if expected.layout == Layout::TurnedExperts {
            shape.swap(1, 2);
        }
        assert_eq!(found.values.shape(), shape, "{}", expected.name);
    }
}

#[test]
fn gate_comes_before_up_in_whatever_order_they_are_stored() {
    let mut writer = model();
    writer.tensors.reverse();
    let named = named(&open(&writer).tensors).unwrap();
    let experts = named.tensors.iter().find(|tensor| tensor.name.ends_with("gate_up_proj")).unwrap();
    let names: Vec<_> = experts.values.tensors().iter().map(|tensor| tensor.name.clone()).collect();
    assert_eq!(names, ["blk.1.ffn_gate_exps.weight", "blk.1.ffn_up_exps.weight"]);
}

#[test]
fn gate_and_up_may_be_one_tensor() {
    let together = Writer::default().zeros("blk.1.ffn_gate_up_exps.weight", &[2, 8, 8]);
    let named = |writer: &Writer| named(&open(writer).tensors);
    let found = named(&together).unwrap();
    assert_eq!(found.tensors[0].name, "model.layers.1.feed_forward.experts.gate_up_proj");
    assert!(matches!(&found.tensors[0].values, Values::One(tensor) if tensor.shape == [2, 8, 8]));
    let both = together.zeros("blk.1.ffn_gate_exps.weight", &[2, 4, 8]).zeros("blk.1.ffn_up_exps.weight", &[2, 4, 8]);
    let error = named(&both).unwrap_err().to_string();
    assert!(error.contains("gate_up_proj is there twice: as blk.1.ffn_gate_up_exps.weight"), "{error}");
}

#[test]
fn experts_of_many_layers_do_not_take_time_by_their_square() {
    const LAYERS: usize = 100_000;
    let writer = (0..LAYERS).fold(Writer::default(), |writer, layer| {
        let name = |kind: &str| format!("blk.{layer}.{kind}.weight");
        let writer = writer.zeros(&name("attn_q"), &[0]);
        writer.zeros(&name("ffn_gate_exps"), &[0, 1, 1]).zeros(&name("ffn_up_exps"), &[0, 1, 1])
    });
    let file = open(&writer);
    let started = Instant::now();
    assert_eq!(named(&file.tensors).unwrap().tensors.len(), 2 * LAYERS);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn biases_have_a_place() {
    let writer = Writer::default().zeros("blk.0.attn_q.bias", &[8]).zeros("blk.0.attn_output.bias", &[8]);
    let names: Vec<_> = named(&open(&writer).tensors).unwrap().tensors.into_iter().map(|tensor| tensor.name).collect();
    assert_eq!(names, ["model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.o_proj.bias"]);
}

#[test]
fn what_is_no_parameter_is_listed() {
    let unknown = [
        "blk.+1.attn_q.weight",
        "blk.01.attn_q.weight",
        "blk.1.attn_q.scale",
        "blk.1.attn_qkv.weight",
        "blk.1.ffn_gate_exps.weight",
        "blk.2.ffn_up_exps.weight",
        "blk.x.attn_q.weight",
        "blk.99999999999999999999.attn_q.weight",
        "v.patch_embd.weight",
    ];
    let writer = unknown.iter().fold(Writer::default(), |writer, name| writer.zeros(name, &[1]));
    let named = named(&open(&writer).tensors).unwrap();
    let mut expected = unknown.map(str::to_owned);
    expected.sort();
    assert_eq!(named.unknown, expected);
    assert!(named.tensors.is_empty());
}

#[test]
fn halves_of_different_shape_are_refused() {
    for (gate, up) in [(&[2, 4, 8][..], &[2, 3, 8][..]), (&[8, 8], &[8, 8])] {
        let writer = Writer::default().zeros("blk.0.ffn_gate_exps.weight", gate).zeros("blk.0.ffn_up_exps.weight", up);
        let error = named(&open(&writer).tensors).unwrap_err().to_string();
        let part = format!("blk.0.ffn_up_exps.weight: expected shape {gate:?}, model.gguf has {up:?}");
        assert!(error.contains(&part), "{error}");
    }
}

#[test]
fn types_that_are_not_read_are_named() {
    let iq1 = |writer: Writer, name: &str, kind, bytes| writer.tensor(name, kind, &[256], vec![0; bytes]);
    let writer = iq1(model(), "blk.2.attn_q.weight", 19, 50);
    let writer = iq1(writer, "blk.2.attn_k.weight", 39, 8 * 17);
    // One that is not wanted may be of any type.
    let writer = iq1(writer, "v.patch_embd.weight", 19, 50);
    let error = named(&open(&writer).tensors).unwrap_err().to_string();
    assert!(error.contains("model.gguf: ggml's IQ1_S (blk.2.attn_q.weight and 1 more; F32, F16"), "{error}");
}
