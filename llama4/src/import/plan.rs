use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use burn::tensor::DType;

use super::matrix::Matrix;
use super::names::{ExpectedTensor, expected_tensors, is_vision, text_name};
use super::resolve::{Held, Resolved, resolve};
use super::stored::{StoredDtype, StoredTensor};
use crate::Llama4Config;
use crate::error::ImportError;

/// Which stored tensors become which parameter: made from headers alone, before any weight is read, and only if they agree with the
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
    /// Its matrices, as many and as large as [`ExpectedTensor::matrices`] says.
    pub(super) matrices: Vec<Matrix>,
    /// How its values are stored.
    pub(super) dtype: StoredDtype,
    /// The file, or the first of them, for messages.
    pub(super) file: Arc<Path>,
    /// Bytes on disk.
    pub(super) bytes: u64,
}

/// Name, the shape that is needed, the shape that is there, and the file.
pub(super) type WrongShape = (String, Vec<usize>, Vec<usize>, Arc<Path>);

/// What keeps parameters from being loaded, all of it, so that the message can say how much.
#[derive(Default)]
pub(super) struct Problems {
    pub(super) missing: Vec<String>,
    pub(super) dtypes: Vec<(String, StoredDtype, Arc<Path>)>,
    pub(super) shapes: Vec<WrongShape>,
    /// Those that are said one by one.
    pub(super) others: Vec<ImportError>,
}

impl Plan {
    /// Compare what a checkpoint of Hugging Face's names holds with what the model needs. `place` is the file or folder, for messages;
    /// `quantisation` is what the configuration says about it.
    pub(super) fn new(
        config: &Llama4Config,
        stored: Vec<StoredTensor>,
        place: &Path,
        quantisation: Option<&str>,
    ) -> Result<Self, ImportError> {
        let mut by_name: HashMap<String, Arc<StoredTensor>> = HashMap::new();
        let mut skipped_vision = 0;
        for tensor in stored {
            if is_vision(&tensor.name) {
                skipped_vision += 1;
                continue;
            }
            let name = text_name(&tensor.name);
            let second = (tensor.name.clone(), tensor.file.to_path_buf());
            if let Some(first) = by_name.insert(name.clone(), Arc::new(tensor)) {
                let first = (first.name.clone(), first.file.to_path_buf());
                return Err(ImportError::Twice { name, first, second });
            }
        }

        let mut held = Held::new(by_name);
        let mut problems = Problems::default();
        let tensors: Vec<PlannedTensor> = expected_tensors(config)
            .into_iter()
            .filter_map(|expected| {
                let resolved = resolve(&expected, &mut held, &mut problems)?;
                let Resolved { matrices, dtype, file, bytes } = resolved;
                Some(PlannedTensor { expected, matrices, dtype, file, bytes })
            })
            .collect();
        let mut unexpected = held.rest();
        if config.tie_word_embeddings {
            drop_equal_head(&tensors, &mut unexpected);
        }
        problems.check(unexpected, place, quantisation)?;
        Ok(Self { tensors, skipped_vision })
    }

    /// Bytes on disk of what will be loaded.
    pub(super) fn bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }

    /// Number of parameters by how they are stored.
    pub(super) fn dtypes(&self) -> BTreeMap<StoredDtype, usize> {
        let mut counts = BTreeMap::new();
        for tensor in &self.tensors {
            *counts.entry(tensor.dtype.clone()).or_insert(0) += 1;
        }
        counts
    }

    /// Type of the norms' weights.
    pub(super) fn norm_dtype(&self) -> Option<DType> {
        let norm = self.tensors.iter().find(|tensor| tensor.expected.name == "model.norm.weight")?;
        match norm.dtype {
            StoredDtype::Bf16 => Some(DType::BF16),
            StoredDtype::F16 => Some(DType::F16),
            StoredDtype::F32 => Some(DType::F32),
            _ => None,
        }
    }

    /// Whether some weight is stored in 8 bits or fewer.
    pub(super) fn is_quantised(&self) -> bool {
        self.tensors
            .iter()
            .any(|tensor| !matches!(tensor.dtype, StoredDtype::Bf16 | StoredDtype::F16 | StoredDtype::F32))
    }
}

impl Problems {
    /// The error that says most, if there is one. `unexpected` are the tensors that nothing asked for.
    pub(super) fn check(
        self,
        mut unexpected: Vec<Arc<StoredTensor>>,
        place: &Path,
        quantisation: Option<&str>,
    ) -> Result<(), ImportError> {
        unexpected.sort_by(|a, b| a.name.cmp(&b.name));
        let Self { missing, dtypes, shapes, others } = self;
        if let Some(error) = others.into_iter().next() {
            return Err(error);
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
            let unexpected = unexpected.into_iter().map(|tensor| tensor.name.clone()).collect();
            return Err(ImportError::Names { place: place.to_path_buf(), missing, unexpected });
        }
        let more = dtypes.len().saturating_sub(1);
        if let Some((name, found, file)) = dtypes.into_iter().next() {
            return Err(ImportError::Dtype { name, found, file: file.to_path_buf(), more });
        }
        let more = shapes.len().saturating_sub(1);
        match shapes.into_iter().next() {
            Some((name, expected, found, file)) => {
                Err(ImportError::Shape { name, expected, found, file: file.to_path_buf(), more })
            }
            None => Ok(()),
        }
    }
}

/// Some writers store the head of a tied model a second time. It may be there if it is the embedding, bit for bit.
fn drop_equal_head(tensors: &[PlannedTensor], unexpected: &mut Vec<Arc<StoredTensor>>) {
    let Some(embedding) = tensors.iter().find(|tensor| tensor.expected.name == "model.embed_tokens.weight") else {
        return;
    };
    unexpected.retain(|tensor| {
        let equal = tensor.shape == embedding.expected.shape
            && embedding.matrices.first().and_then(|matrix| matrix.bytes_as(&tensor.dtype)) == Some(tensor.bytes());
        !(text_name(&tensor.name) == "lm_head.weight" && equal)
    });
}
