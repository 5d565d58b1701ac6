//! Weights that the device cannot bind whole.

use std::ops::ControlFlow;

use super::packed::logits;
use super::*;
use crate::import::save_hf;
use crate::nn::WeightSlot;
use crate::quant::{Quantization, Rows, Weight};

fn load_within(name: &str, largest: u64, quantization: Option<Quantization>) -> Result<TestModel, ImportError> {
    let options = LoadOptions { largest_tensor: Some(largest), quantization, ..LoadOptions::default() };
    let loaded = super::super::load(golden(name), &options, &Default::default(), |_| ControlFlow::Continue(()));
    loaded.map(|loaded| loaded.model)
}

/// Paths of the weights that are split, and the rows of their parts.
fn split(model: &mut TestModel) -> Vec<(String, Vec<usize>)> {
    let slots = model.weight_slots().into_iter();
    let split = |(path, mut slot): (String, WeightSlot<'_, TestBackend>)| match slot.matrix()? {
        Weight::Split(parts) => Some((path, parts.iter().map(Rows::count).collect())),
        _ => None,
    };
    slots.filter_map(split).collect()
}

/// An expert of the goldens takes two matrices of 64 columns; twice that holds it, but neither head nor embedding. Of floats: see [`largest`].
const LARGEST: u64 = 2 * 4 * 2 * 64 * 64;

/// What holds as many values of the embedding, which has 16 bits beside packed weights.
fn largest(quantization: Option<Quantization>) -> u64 {
    LARGEST * quantization.map_or(32, |quantization| quantization.embedding.bits() as u64) / 32
}

#[test]
fn a_split_model_computes_what_the_whole_one_computes() {
    // Scout's shape, tied embeddings with biases, and 8-bit floats with scales.
    for name in ["p1_scout_like", "p5_ropescaled_bias_tied_gqa4", "p7_fp8_experts"] {
        for quantization in [None, Some(Quantization::q8()), Some(Quantization::q4())] {
            let mut model = load_within(name, largest(quantization), quantization).unwrap();
            let parts = split(&mut model);
            assert!(parts.iter().any(|(path, _)| path == "model.embed_tokens.weight"), "{name}: {parts:?}");
            for (path, rows) in &parts {
                assert!(rows.len() > 1 && rows.iter().all(|rows| *rows > 0), "{path}: {rows:?}");
            }
            let whole = load_with_quantization(name, quantization);
            // The product sums in another order where a matrix has other rows.
            for (found, expected) in logits(&model).into_iter().zip(logits(&whole)) {
                assert!((found - expected).abs() < 1e-4, "{found} for {expected}, {name}, {quantization:?}");
            }
        }
    }
}

fn load_with_quantization(name: &str, quantization: Option<Quantization>) -> TestModel {
    let options = LoadOptions { quantization, ..LoadOptions::default() };
    super::super::load(golden(name), &options, &Default::default(), |_| ControlFlow::Continue(())).unwrap().model
}

#[test]
fn a_split_model_is_saved_as_the_whole_one_is() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let models = [load_within("p1_scout_like", LARGEST, None).unwrap(), load(golden("p1_scout_like")).unwrap().model];
    let files = folders.each_ref().map(|folder| folder.path().join("model.safetensors"));
    for (model, folder) in models.iter().zip(&folders) {
        save_hf(model, folder.path(), burn::tensor::DType::BF16).unwrap();
    }
    let [split, whole] = files.map(|file| std::fs::read(file).unwrap());
    assert!(split == whole, "the files differ");
}

#[test]
fn an_expert_that_cannot_be_split_is_named() {
    let error = load_within("p1_scout_like", 4096, None).unwrap_err().to_string();
    for part in ["feed_forward.experts.groups.0.", "at most 4096", "fewer bits"] {
        assert!(error.contains(part), "{error}");
    }
}
