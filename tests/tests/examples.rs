//! The examples of the library, as they are: run on ndarray, compiled for every backend that the tests are built with.

// Each example brings the same line that names a backend.
#![allow(clippy::duplicate_mod)]

// Their `main` and their choice of a backend are not used here.
#[allow(dead_code, unreachable_pub)]
#[path = "../../llama4/examples/finetune_lora.rs"]
mod finetune_lora;
#[allow(dead_code, unreachable_pub)]
#[path = "../../llama4/examples/generate.rs"]
mod generate;
#[allow(dead_code, unreachable_pub)]
#[path = "../../llama4/examples/hidden_states.rs"]
mod hidden_states;

use std::path::{Path, PathBuf};

use burn::tensor::backend::AutodiffBackend;
use burn_autodiff::Autodiff;
use burn_ndarray::NdArray;

type Plain = NdArray<f32>;

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/demo")
}

/// Every example on a backend, with autodiff and without: that it compiles is what is asked.
fn instantiate<B: AutodiffBackend>() {
    let _ = generate::generate::<B>;
    let _ = generate::generate::<B::InnerBackend>;
    let _ = hidden_states::likeness::<B>;
    let _ = hidden_states::likeness::<B::InnerBackend>;
    let _ = finetune_lora::finetune::<B>;
}

#[test]
fn examples_compile_on_every_backend() {
    instantiate::<Autodiff<Plain>>();
    #[cfg(feature = "wgpu")]
    instantiate::<Autodiff<burn_wgpu::Wgpu>>();
    #[cfg(feature = "cuda")]
    instantiate::<Autodiff<burn_cuda::Cuda>>();
}

#[test]
fn generate_streams_text() {
    let mut out = Vec::new();
    generate::generate::<Plain>(&demo(), "The whole family", 8, &Default::default(), &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with("The whole family") && text.len() > 25, "{text}");
}

#[test]
fn a_sentence_is_most_like_itself() {
    let sentences = ["She walked in the garden.", "She walked in the garden.", "Seven ships!"];
    let table = hidden_states::likeness::<Plain>(&demo(), &sentences, &Default::default(), &mut Vec::new()).unwrap();
    assert_eq!(table.len(), 6);
    for row in table {
        assert!((row[0] - 1.0).abs() < 1e-4 && row[1] < 0.99, "{row:?}");
    }
}

#[test]
fn finetuning_lowers_the_loss_and_merging_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let (adapter, device) = (dir.path().join("adapter"), Default::default());
    let outcome = finetune_lora::finetune::<Autodiff<Plain>>(&demo(), &adapter, 10, &device, &mut Vec::new()).unwrap();
    let (first, last) = outcome.losses;
    assert!(last < 0.8 * first, "loss {first} before, {last} after");
    assert!(outcome.difference < 1e-3, "{}", outcome.difference);
    assert!(!outcome.text.is_empty());
}
