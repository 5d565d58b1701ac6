//! A golden checkpoint written as GGUF is the same model.

use std::path::PathBuf;

use super::*;
use crate::config::HfConfig;
use crate::import::gguf::blocks::dequantise;
use crate::import::gguf::config::hf_config;
use crate::import::gguf::names::{Values, named};
use crate::import::header;
use crate::import::stored::{StoredDtype, StoredTensor};

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/goldens/p1_scout_like").join(file)
}

fn tensors() -> Vec<StoredTensor> {
    let file: Arc<Path> = golden("model.safetensors").into();
    header::read(&Blob::open(&file).unwrap(), &file).unwrap()
}

/// Every matrix of `[experts, in, out]` transposed, as ggml has it.
fn turned(tensor: &StoredTensor) -> Vec<[u8; 2]> {
    let (values, _) = tensor.bytes().as_chunks::<2>();
    let [rows, columns] = [tensor.shape[1], tensor.shape[2]];
    let matrix = |values: &[[u8; 2]]| -> Vec<[u8; 2]> {
        (0..columns)
            .flat_map(|column| (0..rows).map(move |row| (row, column)))
            .map(|(r, c)| values[r * columns + c])
            .collect()
    };
    values.chunks(rows * columns).flat_map(matrix).collect()
}

/// What llama.cpp's converter makes of the checkpoint.
fn written() -> Writer {
    let mut writer = Writer::default()
        .with("general.architecture", "llama4")
        .with("llama4.block_count", 4_u32)
        .with("llama4.context_length", 4096_u32)
        .with("llama4.embedding_length", 64_u32)
        .with("llama4.feed_forward_length", 96_u32)
        .with("llama4.attention.head_count", 4_u32)
        .with("llama4.attention.head_count_kv", 2_u32)
        .with("llama4.attention.key_length", 16_u32)
        .with("llama4.attention.layer_norm_rms_epsilon", 1e-5_f32)
        .with("llama4.rope.freq_base", 5e5_f32)
        .with("llama4.vocab_size", 512_u32)
        .with("llama4.expert_count", 4_u32)
        .with("llama4.expert_used_count", 1_u32)
        .with("llama4.interleave_moe_layer_step", 1_u32)
        .with("llama4.expert_feed_forward_length", 48_u32)
        .with("tokenizer.ggml.bos_token_id", 1_u32)
        .with("tokenizer.ggml.eos_token_id", 2_u32)
        .with("tokenizer.ggml.eot_token_id", 3_u32)
        .with("tokenizer.ggml.padding_token_id", 0_u32);
    for tensor in tensors() {
        assert_eq!(tensor.dtype, StoredDtype::Bf16);
        let shape: Vec<u64> = tensor.shape.iter().map(|&width| width as u64).collect();
        let layer = tensor.name.strip_prefix("model.layers.").and_then(|name| name.split_once('.'));
        let Some((index, name)) = layer else {
            let name = match &*tensor.name {
                "model.embed_tokens.weight" => "token_embd.weight",
                "model.norm.weight" => "output_norm.weight",
                "lm_head.weight" => "output.weight",
                other => panic!("{other}"),
            };
            writer = writer.tensor(name, 30, &shape, tensor.bytes().to_vec());
            continue;
        };
        let name = name.replace("self_attn.", "attn_").replace("feed_forward.", "ffn_");
        let name = match &*name.replace("o_proj", "output").replace("_proj", "") {
            "input_layernorm.weight" => "attn_norm.weight".to_string(),
            "post_attention_layernorm.weight" => "ffn_norm.weight".to_string(),
            "ffn_router.weight" => "ffn_gate_inp.weight".to_string(),
            "ffn_experts.gate_up" => {
                let [experts, hidden, both] = shape[..] else { panic!("{shape:?}") };
                let values = turned(&tensor);
                let half = (hidden * both / 2) as usize;
                for (part, name) in ["gate", "up"].iter().enumerate() {
                    let rows = values.chunks(half).skip(part).step_by(2);
                    let bytes = rows.flatten().flatten().copied().collect();
                    let name = format!("blk.{index}.ffn_{name}_exps.weight");
                    writer = writer.tensor(&name, 30, &[experts, both / 2, hidden], bytes);
                }
                continue;
            }
            "ffn_experts.down" => {
                let shape = [shape[0], shape[2], shape[1]];
                let name = format!("blk.{index}.ffn_down_exps.weight");
                writer = writer.tensor(&name, 30, &shape, turned(&tensor).into_flattened());
                continue;
            }
            shared if shared.starts_with("ffn_shared_expert.") => {
                shared.replace("shared_expert.", "").replace(".weight", "_shexp.weight")
            }
            other => other.to_string(),
        };
        writer = writer.tensor(&format!("blk.{index}.{name}"), 30, &shape, tensor.bytes().to_vec());
    }
    writer
}

#[test]
fn its_configuration_is_the_same() {
    let json = hf_config(&open(&written())).unwrap();
    let found = HfConfig::from_json(&json.to_string()).unwrap().to_model_config().unwrap();
    let expected = HfConfig::from_file(golden("config.json")).unwrap().to_model_config().unwrap();
    assert_eq!(found, expected);
}

#[test]
fn its_tensors_are_the_same() {
    let named = named(&open(&written()).tensors).unwrap();
    assert!(named.unknown.is_empty());
    let expected = tensors();
    assert_eq!(named.tensors.len(), expected.len());
    let bf16 = |bytes: &[u8; 2]| f32::from(half::bf16::from_le_bytes(*bytes));
    for expected in expected {
        let found = named.tensors.iter().find(|tensor| tensor.name == expected.name).unwrap();
        let values = |tensor: &crate::import::gguf::file::GgufTensor| {
            let mut values = vec![0.0; tensor.shape.iter().product()];
            dequantise(tensor.kind, tensor.bytes(), &mut values).unwrap();
            values
        };
        let found: Vec<f32> = match &found.values {
            Values::One(tensor) => values(tensor),
            Values::GateUp { gate, up } => {
                let expert = gate.shape[1] * gate.shape[2];
                let (gate, up) = (values(gate), values(up));
                gate.chunks(expert).zip(up.chunks(expert)).flat_map(|(gate, up)| [gate, up].concat()).collect()
            }
        };
        let expected_values: Vec<f32> = match expected.shape.len() {
            3 => turned(&expected).iter().map(bf16).collect(),
            _ => expected.bytes().as_chunks().0.iter().map(bf16).collect(),
        };
        assert!(found == expected_values, "{}", expected.name);
    }
}
