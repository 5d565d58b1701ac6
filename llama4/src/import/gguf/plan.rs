use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::file::{GgufFile, GgufTensor};
use super::kind::GgmlType;
use super::names::{NamedTensor, Values, named};
use super::rows::BlockRows;
use crate::Llama4Config;
use crate::error::ImportError;
use crate::import::matrix::{Matrix, Strided};
use crate::import::names::expected_tensors;
use crate::import::plan::{Plan, PlannedTensor, Problems};
use crate::import::stored::{StoredDtype, StoredTensor};
use crate::quant::{Packing, WeightKind};

/// Compare a file's tensors with what the model needs, as for every other form.
pub(in crate::import) fn plan(config: &Llama4Config, file: &GgufFile, place: &Path) -> Result<Plan, ImportError> {
    let found = named(&file.tensors)?;
    let mut by_name: HashMap<String, NamedTensor> = HashMap::new();
    for tensor in found.tensors {
        by_name.insert(tensor.name.clone(), tensor);
    }
    let mut problems = Problems::default();
    let mut tensors = Vec::new();
    for expected in expected_tensors(config) {
        let Some(NamedTensor { values, .. }) = by_name.remove(&expected.name) else {
            problems.missing.push(expected.name);
            continue;
        };
        let parts = values.tensors();
        let Some(&first) = parts.first() else { continue };
        // Experts stand as the model has them, all else as in Hugging Face's files.
        let [count, output, input] = expected.matrices();
        let shape = if expected.shape.len() == 3 { vec![count, output, input] } else { expected.shape.clone() };
        if values.shape() != shape {
            problems.shapes.push((expected.name, shape, values.shape(), first.file.clone()));
            continue;
        }
        let dtype = stored_dtype(&parts);
        if expected.kind == WeightKind::Float && dtype.is_quantised() {
            problems.dtypes.push((expected.name, dtype, first.file.clone()));
            continue;
        }
        let Some(matrices) = matrices(&values, [count, output, input]) else {
            let reason = format!("{}: its values do not fit its shape", first.name);
            return Err(ImportError::Corrupt { file: first.file.to_path_buf(), reason });
        };
        let bytes = parts.iter().map(|part| part.range.len() as u64).sum();
        let file = first.file.clone();
        tensors.push(PlannedTensor { expected, matrices, dtype, file, bytes });
    }
    let mut unexpected: Vec<String> = by_name.into_keys().chain(found.unknown).collect();
    unexpected.sort();
    if !problems.missing.is_empty() || !unexpected.is_empty() {
        return Err(ImportError::Names { place: place.to_path_buf(), missing: problems.missing, unexpected });
    }
    problems.check(Vec::new(), place, None)?;
    Ok(Plan { tensors, skipped_vision: 0 })
}

/// How a parameter is stored; of two parts, the one that keeps more.
fn stored_dtype(parts: &[&GgufTensor]) -> StoredDtype {
    let dtypes = parts.iter().map(|part| match part.kind {
        GgmlType::F32 => StoredDtype::F32,
        GgmlType::F16 => StoredDtype::F16,
        GgmlType::Bf16 => StoredDtype::Bf16,
        kind => StoredDtype::Blocks { name: kind.to_string(), nearest: nearest(kind) },
    });
    let bits = |dtype: &StoredDtype| match dtype {
        StoredDtype::Blocks { nearest, .. } => nearest.bits(),
        dtype => dtype.bits().unwrap_or(0),
    };
    dtypes.max_by_key(bits).unwrap_or(StoredDtype::F32)
}

/// The packing that keeps what a type's values have: 4 bits for those of up to 4.5 bits a value, else 8.
fn nearest(kind: GgmlType) -> Packing {
    match kind {
        GgmlType::Q4_0
        | GgmlType::Q4_1
        | GgmlType::Q2K
        | GgmlType::Q3K
        | GgmlType::Q4K
        | GgmlType::Iq4Nl
        | GgmlType::Iq4Xs => Packing::Q4,
        _ => Packing::Q8,
    }
}

fn matrices(values: &Values, [count, output, input]: [usize; 3]) -> Option<Vec<Matrix>> {
    let split = |tensor: &GgufTensor, rows: usize| -> Option<Vec<Matrix>> {
        (0..count).map(|index| matrix(tensor, index, [rows, input])).collect()
    };
    match values {
        Values::One(tensor) => split(tensor, output),
        Values::GateUp { gate, up } => {
            let pairs = split(gate, output / 2)?.into_iter().zip(split(up, output / 2)?);
            Some(pairs.map(|(gate, up)| Matrix::Below(vec![gate, up])).collect())
        }
    }
}

/// Matrix `index` of a tensor of matrices.
fn matrix(tensor: &GgufTensor, index: usize, [rows, columns]: [usize; 2]) -> Option<Matrix> {
    let dtype = match tensor.kind {
        GgmlType::F32 => StoredDtype::F32,
        GgmlType::F16 => StoredDtype::F16,
        GgmlType::Bf16 => StoredDtype::Bf16,
        _ => return BlockRows::new(tensor, index * rows, [rows, columns]).map(Matrix::Blocks),
    };
    let stored = Arc::new(StoredTensor {
        name: tensor.name.clone(),
        dtype,
        shape: tensor.shape.clone(),
        file: tensor.file.clone(),
        blob: tensor.blob.clone(),
        range: tensor.range.clone(),
    });
    Strided::new(&stored, index * rows * columns, [rows, columns], [columns, 1]).map(Matrix::Floats)
}
