//! A golden checkpoint written as GGUF is the same model.

use std::ops::ControlFlow;
use std::path::PathBuf;

use burn_ndarray::NdArray;

use super::*;
use crate::Llama4ForCausalLM;
use crate::config::HfConfig;
use crate::import::gguf::blocks::dequantise;
use crate::import::gguf::config::hf_config;
use crate::import::gguf::names::{Values, named};
use crate::import::header;
use crate::import::stored::{StoredDtype, StoredTensor};
use crate::import::{Checkpoint, ConvertOptions, LoadOptions, Loaded, WeightsForm};
use crate::quant::{Packing, Quantization, pack};

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

/// The file on disk, and the model that is in it.
fn loaded(writer: &Writer, quantization: Option<Quantization>) -> Loaded<NdArray> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.gguf");
    std::fs::write(&file, writer.bytes()).unwrap();
    let options = LoadOptions { quantization, ..LoadOptions::default() };
    // By the name of the file, and by that of its folder.
    let of_folder = load_from(dir.path(), &options);
    let of_file = load_from(&file, &options);
    assert_eq!(of_folder.report.bytes, of_file.report.bytes);
    of_file
}

fn load_from(path: &Path, options: &LoadOptions) -> Loaded<NdArray> {
    crate::import::load(path, options, &Default::default(), |_| ControlFlow::Continue(())).unwrap()
}

/// The tensors of two axes or more in blocks of 32, as far as their rows are whole blocks.
fn in_blocks(mut writer: Writer, id: u32) -> Writer {
    let packing = if id == 8 { Packing::Q8 } else { Packing::Q4 };
    for tensor in &mut writer.tensors {
        if tensor.widths.len() < 2 || !tensor.widths[0].is_multiple_of(32) || tensor.name.ends_with(b"inp.weight") {
            continue;
        }
        let values: Vec<f32> =
            tensor.bytes.as_chunks().0.iter().map(|&bytes| half::bf16::from_le_bytes(bytes).to_f32()).collect();
        tensor.id = id;
        tensor.bytes = values
            .chunks(32)
            .flat_map(|block| {
                let (mut words, mut scales) = (vec![0; packing.words(32)], [0]);
                pack(packing, block, &mut words, &mut scales).unwrap();
                scales.into_iter().flat_map(u16::to_le_bytes).chain(words.into_iter().flat_map(u32::to_le_bytes))
            })
            .collect();
    }
    writer
}

fn weights(model: Llama4ForCausalLM<NdArray>) -> Vec<(String, Option<Packing>, Vec<f32>)> {
    crate::import::tests::packed::weights(model)
}

#[test]
fn a_file_of_floats_is_the_model_bit_for_bit() {
    let loaded = loaded(&written(), None);
    assert_eq!(loaded.report.form, WeightsForm::Gguf);
    let expected = load_from(&golden(""), &LoadOptions::default());
    assert_eq!(weights(loaded.model), weights(expected.model));
}

#[test]
fn blocks_of_our_own_kinds_are_taken_without_loss() {
    for (id, packing) in [(8, Packing::Q8), (2, Packing::Q4)] {
        let loaded = loaded(&in_blocks(written(), id), None);
        assert!(loaded.report.requantised.is_empty(), "{:?}", loaded.report);
        let all = Quantization { weights: packing, head: packing, embedding: packing };
        let expected = load_from(&golden(""), &LoadOptions { quantization: Some(all), ..LoadOptions::default() });
        assert_eq!(weights(loaded.model), weights(expected.model), "{packing}");
    }
}

#[test]
fn blocks_of_another_kind_become_the_nearest_of_ours_and_it_is_said() {
    let mut writer = written();
    let query = writer.tensors.iter_mut().find(|tensor| tensor.name == b"blk.1.attn_q.weight").unwrap();
    // Q4_1: scale and minimum, then the quants.
    let block: Vec<u8> = [[0x00, 0x3c, 0x00, 0xc0].as_slice(), &[0xb7; 16]].concat();
    (query.id, query.bytes) = (3, block.repeat(64 * 64 / 32));
    let loaded = loaded(&writer, None);
    assert_eq!(loaded.report.requantised.values().sum::<usize>(), 1);
    assert_eq!(loaded.report.requantised.keys().next().unwrap().to_string(), "Q4_1");
    let found = weights(loaded.model);
    let (_, packing, values) =
        found.iter().find(|(name, ..)| name == "model.layers.1.self_attn.q_proj.weight").unwrap();
    assert_eq!(*packing, Some(Packing::Q4));
    // 7 - 2 in the low halves, 11 - 2 in the high ones; the largest is met exactly.
    assert_eq!((values[16], values[31]), (9.0, 9.0));
    assert!((values[0] - 5.0).abs() < 0.6, "{}", values[0]);
}

#[test]
fn an_import_is_the_same_model_with_its_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let (file, folder) = (dir.path().join("model.gguf"), dir.path().join("out"));
    std::fs::write(&file, in_blocks(written(), 2).bytes()).unwrap();
    let checkpoint = Checkpoint::open(file.as_path()).unwrap();
    let report = checkpoint.convert(&ConvertOptions::default(), &folder, |_| ControlFlow::Continue(())).unwrap();
    assert!(report.requantised.is_empty() && report.dtypes.keys().any(|dtype| dtype.to_string() == "q4"));
    let options = LoadOptions::default();
    assert_eq!(weights(load_from(&folder, &options).model), weights(load_from(&file, &options).model));
}

#[test]
fn what_does_not_fit_the_model_is_named() {
    let error = |change: &dyn Fn(&mut Writer)| {
        let mut writer = written();
        change(&mut writer);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.gguf");
        std::fs::write(&file, writer.bytes()).unwrap();
        let loaded =
            crate::import::load::<NdArray>(file.as_path(), &LoadOptions::default(), &Default::default(), |_| {
                ControlFlow::Continue(())
            });
        loaded.unwrap_err().to_string()
    };
    let tensor = |writer: &mut Writer, name: &str, id: u32, widths: &[u64], bytes: usize| {
        let tensor = writer.tensors.iter_mut().find(|tensor| tensor.name == name.as_bytes()).unwrap();
        (tensor.id, tensor.widths, tensor.bytes) = (id, widths.to_vec(), vec![0; bytes]);
    };
    let missing = error(&|writer| writer.tensors.retain(|tensor| tensor.name != b"blk.2.attn_k.weight"));
    assert!(missing.contains("1 parameter is missing (model.layers.2.self_attn.k_proj.weight)"), "{missing}");
    let shape = error(&|writer| tensor(writer, "blk.2.attn_k.weight", 30, &[32, 64], 4096));
    assert!(shape.contains("k_proj.weight") && shape.contains("[32, 64]") && shape.contains("[64, 32]"), "{shape}");
    let norm = error(&|writer| tensor(writer, "blk.2.attn_norm.weight", 8, &[64], 68));
    assert!(norm.contains("input_layernorm.weight") && norm.contains("Q8_0"), "{norm}");
}
