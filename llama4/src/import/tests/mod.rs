//! Checkpoints of every form and every defect, on burn-ndarray.

mod goldens;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::{LoadOptions, Loaded, ModelSource};
use crate::error::ImportError;

type TestBackend = burn_ndarray::NdArray<f32>;

/// Folder of a golden checkpoint.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/goldens").join(name)
}

fn load(source: impl Into<ModelSource>) -> Result<Loaded<TestBackend>, ImportError> {
    super::load(source, &LoadOptions::default(), &Default::default(), |_| ControlFlow::Continue(()))
}
