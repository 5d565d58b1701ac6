//! What reads the bytes of a checkpoint, as functions of bytes alone, for the targets in `fuzz/`.
//!
//! Whatever the bytes are: no panic, no overflow, and neither time nor memory out of proportion to them. Results are looked at as far as
//! loading would, and errors are written out, as a user would see them.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::DType;

use super::blob::Blob;
use super::gguf::file::{GgufFile, GgufTensor};
use super::gguf::kind::row_bytes;
use super::index::Index;
use super::names::expected_tensors;
use super::plan::Plan;
use super::{gguf as format, header, pickle as unpickle, pytorch as torch};
use crate::Llama4Config;
use crate::config::HfConfig;
use crate::memory::MemoryOptions;
use crate::quant::Quantization;

/// Layers up to which a list with an entry per tensor is made: more take more time, as they should.
const MAX_LAYERS: usize = 64;

/// Rows of a tensor that are read.
const ROWS: usize = 2;

/// A `config.json`.
pub fn config(bytes: &[u8]) {
    let config = HfConfig::from_slice(bytes).and_then(|hf| {
        hf.dtype();
        hf.to_model_config()
    });
    if let Some(config) = shown(config) {
        estimate(&config);
    }
}

/// A `model.safetensors.index.json`, beside two shards that hold one tensor each.
pub fn shard_index(bytes: &[u8]) {
    let file = Path::new("model.safetensors.index.json");
    let Some(index) = shown(Index::parse(bytes, file)) else { return };
    for (shard, listed) in index.shards() {
        let held = match shard {
            "a" => HashSet::from(["x"]),
            "b" => HashSet::from(["y"]),
            _ => HashSet::new(),
        };
        shown(index.compare(shard, &listed, &held, file));
    }
}

/// A safetensors file.
pub fn safetensors(bytes: &[u8]) {
    let (blob, file) = memory(bytes, "model.safetensors");
    for tensor in shown(header::read(&blob, &file)).unwrap_or_default() {
        assert!(tensor.bytes().len() <= bytes.len());
    }
}

/// A GGUF file: header, configuration, tokenizer, names, and the first values of each tensor.
pub fn gguf(bytes: &[u8]) {
    let (blob, file) = memory(bytes, "model.gguf");
    let Some(gguf) = shown(GgufFile::read(&blob, &file)) else { return };
    shown(format::tokenizer::tokenizer_json(&gguf));
    shown(format::tokenizer::chat_template(&gguf));
    shown(format::names::named(&gguf.tensors));
    gguf.tensors.iter().for_each(dequantise);

    let Some(json) = shown(format::config::hf_config(&gguf)) else { return };
    let config = HfConfig::from_json(&json.to_string()).and_then(|hf| hf.to_model_config());
    let Some(config) = shown(config).filter(|config| config.num_hidden_layers <= MAX_LAYERS) else { return };
    estimate(&config);
    if let Some(plan) = shown(format::plan::plan(&config, &gguf, &file)) {
        read_rows(&plan);
    }
}

/// The `data.pkl` of a PyTorch file.
pub fn pickle(bytes: &[u8]) {
    let _ = unpickle::tensors(bytes);
}

/// A PyTorch file.
pub fn pytorch(bytes: &[u8]) {
    let (blob, file) = memory(bytes, "model.pth");
    for tensor in shown(torch::read(&blob, &file)).unwrap_or_default() {
        assert!(tensor.bytes().len() <= bytes.len());
    }
}

/// A safetensors file as the weights of a model, in this library's own layout or any that it reads.
pub fn packed(config: &str, bytes: &[u8]) {
    let (blob, file) = memory(bytes, "model.safetensors");
    let Some(stored) = shown(header::read(&blob, &file)) else { return };
    let config = HfConfig::from_json(config).and_then(|hf| hf.to_model_config());
    let Some(config) = shown(config) else { return };
    if let Some(plan) = shown(Plan::new(&config, stored, &file, Some("llama4-burn"))) {
        read_rows(&plan);
    }
}

fn memory(bytes: &[u8], name: &str) -> (Blob, Arc<Path>) {
    (Blob::Shared(bytes.into()), Path::new(name).into())
}

/// The value; of an error the message is made.
fn shown<T, E: std::fmt::Display>(result: Result<T, E>) -> Option<T> {
    result.map_err(|error| std::hint::black_box(error.to_string())).ok()
}

/// What a configuration says about sizes.
fn estimate(config: &Llama4Config) {
    config.parameter_count();
    if config.num_hidden_layers > MAX_LAYERS {
        return;
    }
    let names: HashSet<String> = expected_tensors(config).into_iter().map(|tensor| tensor.name).collect();
    assert!(names.contains("model.norm.weight"));
    for quantization in [None, Some(Quantization::q4())] {
        let (dtype, stored) = (DType::F32, DType::BF16);
        config
            .memory(&MemoryOptions {
                dtype,
                stored,
                quantization,
                context: 131_072,
                batch: 8,
                piece: 512,
                max_page: None,
            })
            .device();
    }
}

fn dequantise(tensor: &GgufTensor) {
    let columns = tensor.shape.last().copied().unwrap_or(1);
    let Some(width) = row_bytes(tensor.kind, columns).filter(|&width| width > 0) else { return };
    // A tensor without rows may claim any width.
    let rows = (tensor.range.len() / width).min(ROWS);
    let bytes = &tensor.bytes()[..rows * width];
    let mut values = vec![0.0; rows * columns];
    let read = format::blocks::dequantise(tensor.kind, bytes, &mut values);
    assert_eq!(read.is_ok(), tensor.kind.is_read());
}

fn read_rows(plan: &Plan) {
    let total: usize = plan.tensors.iter().map(|tensor| tensor.matrices.len()).sum();
    assert!(plan.bytes() > 0 && total > 0);
    for matrix in plan.tensors.iter().flat_map(|tensor| &tensor.matrices) {
        let (rows, columns) = (matrix.rows().min(ROWS), matrix.columns());
        let mut values = vec![0.0; rows * columns];
        matrix.read(0..rows, 0..columns, &mut values, columns);
        std::hint::black_box(values);
        matrix.extents();
    }
}
