use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::tensor::DType;

use super::names::{ExpectedTensor, expected_tensors, is_vision, text_name};
use super::stored::{StoredDtype, StoredTensor};
use crate::Llama4Config;
use crate::error::ImportError;

/// Which stored tensor becomes which parameter: made from headers alone, before any weight is read, and only if they agree with the
/// model in every name, shape and dtype.
#[derive(Debug)]
pub(super) struct Plan {
    /// Every parameter, in the model's order.
    pub(super) tensors: Vec<PlannedTensor>,
    /// Tensors of the vision half.
    pub(super) skipped_vision: usize,
}

/// A parameter and where its values are.
#[derive(Debug, Clone)]
pub(super) struct PlannedTensor {
    pub(super) expected: ExpectedTensor,
    pub(super) stored: StoredTensor,
}

impl Plan {
    /// Compare what a checkpoint holds with what the model needs. `place` is the file or folder, for messages; `quantisation` is what
    /// the configuration says about it.
    pub(super) fn new(
        config: &Llama4Config,
        stored: Vec<StoredTensor>,
        place: &Path,
        quantisation: Option<&str>,
    ) -> Result<Self, ImportError> {
        let mut by_name: HashMap<String, StoredTensor> = HashMap::new();
        let mut skipped_vision = 0;
        for tensor in stored {
            if is_vision(&tensor.name) {
                skipped_vision += 1;
                continue;
            }
            let name = text_name(&tensor.name);
            let second = (tensor.name.clone(), tensor.file.to_path_buf());
            if let Some(first) = by_name.insert(name.clone(), tensor) {
                return Err(ImportError::Twice { name, first: (first.name, first.file.to_path_buf()), second });
            }
        }

        let mut tensors = Vec::new();
        let mut missing = Vec::new();
        for expected in expected_tensors(config) {
            match by_name.remove(&expected.name) {
                Some(stored) => tensors.push(PlannedTensor { expected, stored }),
                None => missing.push(expected.name),
            }
        }
        let mut unexpected: Vec<StoredTensor> = by_name.into_values().collect();
        unexpected.sort_by(|a, b| a.name.cmp(&b.name));
        if config.tie_word_embeddings {
            drop_equal_head(&tensors, &mut unexpected);
        }

        // Quantised files also have other names than the model, so their type is the better answer and comes first.
        let quantised = || unexpected.iter().filter(|tensor| tensor.dtype.is_quantised());
        if let Some(first) = quantised().next() {
            return Err(ImportError::Quantised {
                name: first.name.clone(),
                found: first.dtype.clone(),
                method: quantisation.unwrap_or("an unnamed method").to_string(),
                file: first.file.to_path_buf(),
                count: quantised().count(),
            });
        }
        if !missing.is_empty() || !unexpected.is_empty() {
            let unexpected = unexpected.into_iter().map(|tensor| tensor.name).collect();
            return Err(ImportError::Names { place: place.to_path_buf(), missing, unexpected });
        }
        let plan = Self { tensors, skipped_vision };
        plan.check_dtypes()?;
        plan.check_shapes()?;
        Ok(plan)
    }

    fn check_dtypes(&self) -> Result<(), ImportError> {
        let mut wrong = self.tensors.iter().filter(|tensor| matches!(tensor.stored.dtype, StoredDtype::Other(_)));
        match wrong.next() {
            None => Ok(()),
            Some(PlannedTensor { expected, stored }) => Err(ImportError::Dtype {
                name: expected.name.clone(),
                found: stored.dtype.clone(),
                file: stored.file.to_path_buf(),
                more: wrong.count(),
            }),
        }
    }

    fn check_shapes(&self) -> Result<(), ImportError> {
        let mut wrong = self.tensors.iter().filter(|tensor| tensor.stored.shape != tensor.expected.shape);
        match wrong.next() {
            None => Ok(()),
            Some(PlannedTensor { expected, stored }) => Err(ImportError::Shape {
                name: expected.name.clone(),
                expected: expected.shape.clone(),
                found: stored.shape.clone(),
                file: stored.file.to_path_buf(),
                more: wrong.count(),
            }),
        }
    }

    /// Bytes on disk of what will be loaded.
    pub(super) fn bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.stored.range.len() as u64).sum()
    }

    /// Number of tensors by type.
    pub(super) fn dtypes(&self) -> BTreeMap<StoredDtype, usize> {
        let mut counts = BTreeMap::new();
        for tensor in &self.tensors {
            *counts.entry(tensor.stored.dtype.clone()).or_insert(0) += 1;
        }
        counts
    }

    /// Type of the norms' weights.
    pub(super) fn norm_dtype(&self) -> Option<DType> {
        let norm = self.tensors.iter().find(|tensor| tensor.expected.name == "model.norm.weight")?;
        match norm.stored.dtype {
            StoredDtype::Bf16 => Some(DType::BF16),
            StoredDtype::F16 => Some(DType::F16),
            StoredDtype::F32 => Some(DType::F32),
            StoredDtype::Other(_) => None,
        }
    }
}

/// Some writers store the head of a tied model a second time. It may be there if it is the embedding, bit for bit.
fn drop_equal_head(tensors: &[PlannedTensor], unexpected: &mut Vec<StoredTensor>) {
    let Some(embedding) = tensors.iter().find(|tensor| tensor.expected.name == "model.embed_tokens.weight") else {
        return;
    };
    unexpected.retain(|tensor| {
        let equal = tensor.dtype == embedding.stored.dtype
            && tensor.shape == embedding.stored.shape
            && tensor.bytes() == embedding.stored.bytes();
        !(text_name(&tensor.name) == "lm_head.weight" && equal)
    });
}
