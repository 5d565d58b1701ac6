//! Checkpoints of every form and every defect, on burn-ndarray.

mod defects;
mod files;
mod forms;
mod goldens;
mod lora;
mod meta;
mod own;
pub(in crate::import) mod packed;
mod pickle;
mod pytorch;
mod saved;
mod split;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use burn_store::ModuleSnapshot;

use super::{LoadOptions, Loaded, Loader, ModelSource};
use crate::Llama4ForCausalLM;
use crate::error::ImportError;

type TestBackend = burn_ndarray::NdArray<f32>;
type TestModel = Llama4ForCausalLM<TestBackend>;

/// Folder of a golden checkpoint.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/goldens").join(name)
}

fn load(source: impl Into<ModelSource>) -> Result<Loaded<TestBackend>, ImportError> {
    load_with(source, Loader::Auto)
}

fn load_with(source: impl Into<ModelSource>, loader: Loader) -> Result<Loaded<TestBackend>, ImportError> {
    let options = LoadOptions { loader, ..LoadOptions::default() };
    super::load(source, &options, &Default::default(), |_| ControlFlow::Continue(()))
}

/// What loading says is wrong.
fn error_of(source: impl Into<ModelSource>) -> String {
    load(source).expect_err("a checkpoint with a defect must not load").to_string()
}

/// Every parameter by its path in the model.
fn parameters(model: &TestModel) -> Vec<(String, TensorData)> {
    let parts = model.collect(None, None, true);
    let mut parameters: Vec<_> = parts.iter().map(|part| (part.full_path(), part.to_data().unwrap())).collect();
    parameters.sort_by(|a, b| a.0.cmp(&b.0));
    parameters
}

/// Bit by bit.
#[track_caller]
fn assert_same(a: &TestModel, b: &TestModel) {
    let (a, b) = (parameters(a), parameters(b));
    assert!(!a.is_empty());
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(&b) {
        assert_eq!(a.0, b.0);
        assert!(a.1 == b.1, "{} differs", a.0);
    }
}
