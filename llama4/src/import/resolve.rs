//! From a parameter to the stored tensors that hold it, under Hugging Face's names: as it is, packed by this library, or with each
//! expert and its scales apart.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::matrix::{Matrix, PackedPart, Strided};
use super::names::{ExpectedTensor, Layout};
use super::plan::Problems;
use super::stored::{StoredDtype, StoredTensor};
use crate::error::ImportError;
use crate::quant::{Packing, WeightKind};

/// Names of a layer's experts that are looked for in vain before the others are taken to be missing, too. Real models have fewer.
const MAX_MISSING: usize = 1024;

/// The tensors of a checkpoint that no parameter has taken yet.
pub(super) struct Held(HashMap<String, Arc<StoredTensor>>);

impl Held {
    pub(super) fn new(by_name: HashMap<String, Arc<StoredTensor>>) -> Self {
        Self(by_name)
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Arc<StoredTensor>> {
        self.0.remove(name)
    }

    /// What is left over.
    pub(super) fn rest(self) -> Vec<Arc<StoredTensor>> {
        self.0.into_values().collect()
    }
}

/// A parameter's values.
pub(super) struct Resolved {
    pub(super) matrices: Vec<Matrix>,
    pub(super) dtype: StoredDtype,
    pub(super) file: Arc<Path>,
    pub(super) bytes: u64,
}

/// Find a parameter. What is wrong with it is added to `problems`.
pub(super) fn resolve(expected: &ExpectedTensor, held: &mut Held, problems: &mut Problems) -> Option<Resolved> {
    let name = &expected.name;
    if let Some(tensor) = held.take(name) {
        return whole(expected, &tensor, held, problems);
    }
    let module = name.strip_suffix(".weight").unwrap_or(name);
    if let Some(words) = held.take(&format!("{module}.qweight")) {
        return packed(expected, module, &words, held, problems);
    }
    if expected.kind == WeightKind::Experts {
        return apart(expected, held, problems);
    }
    problems.missing.push(name.clone());
    None
}

/// The parameter is one tensor.
fn whole(
    expected: &ExpectedTensor,
    tensor: &Arc<StoredTensor>,
    held: &mut Held,
    problems: &mut Problems,
) -> Option<Resolved> {
    let name = &expected.name;
    let scaled = tensor.dtype == StoredDtype::F8E4m3 && expected.kind != WeightKind::Float;
    if matches!(tensor.dtype, StoredDtype::Other(_)) || (tensor.dtype.is_quantised() && !scaled) {
        problems.dtypes.push((name.clone(), tensor.dtype.clone(), tensor.file.clone()));
        return None;
    }
    if !has_shape(name, &expected.shape, tensor, problems) {
        return None;
    }
    let [count, output, input] = expected.matrices();
    if scaled {
        if count > 1 {
            // One scale for each of a stacked tensor's matrices or columns: no format that we know does this.
            problems.dtypes.push((name.clone(), tensor.dtype.clone(), tensor.file.clone()));
            return None;
        }
        let (matrix, bytes) = scaled_matrix(name, tensor, [output, input], held, problems)?;
        return Some(resolved(vec![matrix], tensor, bytes));
    }
    let view = |index: usize| match expected.layout {
        Layout::Same => Strided::new(tensor, 0, [output, input], [input, 1]),
        Layout::TurnedExperts => Strided::new(tensor, index * output * input, [output, input], [1, output]),
    };
    // The shape has been compared, and the header with the file, so that every view is within its tensor.
    let matrices = (0..count).map(|index| view(index).map(Matrix::Floats)).collect::<Option<_>>()?;
    Some(resolved(matrices, tensor, tensor.range.len() as u64))
}

fn resolved(matrices: Vec<Matrix>, tensor: &StoredTensor, bytes: u64) -> Resolved {
    Resolved { matrices, dtype: tensor.dtype.clone(), file: tensor.file.clone(), bytes }
}

fn has_shape(name: &str, expected: &[usize], tensor: &StoredTensor, problems: &mut Problems) -> bool {
    if tensor.shape == expected {
        return true;
    }
    problems.shapes.push((name.to_string(), expected.to_vec(), tensor.shape.clone(), tensor.file.clone()));
    false
}

/// An 8-bit matrix and its `weight_scale`: one for each row, or one for all.
fn scaled_matrix(
    name: &str,
    tensor: &Arc<StoredTensor>,
    [output, input]: [usize; 2],
    held: &mut Held,
    problems: &mut Problems,
) -> Option<(Matrix, u64)> {
    let scale_name = format!("{name}_scale");
    let Some(scales) = held.take(&scale_name) else {
        let (name, found, file) = (name.to_string(), tensor.dtype.clone(), tensor.file.to_path_buf());
        problems.others.push(ImportError::NoScale { name, scale: scale_name, found, file });
        return None;
    };
    let step = match scales.shape.as_slice() {
        [] | [1] => 0,
        [rows] | [rows, 1] if *rows == output => 1,
        [1, 1] => 0,
        _ => {
            problems.shapes.push((scale_name, vec![output, 1], scales.shape.clone(), scales.file.clone()));
            return None;
        }
    };
    if scales.dtype.float_bytes().is_none_or(|bytes| bytes == 1) {
        problems.dtypes.push((scale_name, scales.dtype.clone(), scales.file.clone()));
        return None;
    }
    let bytes = (tensor.range.len() + scales.range.len()) as u64;
    let values = Strided::new(tensor, 0, [output, input], [input, 1])?;
    let scales = Strided::new(&scales, 0, [output, 1], [step, 1])?;
    Some((Matrix::Scaled { values, scales }, bytes))
}

/// Each expert's projections are tensors of their own, `[out, in]`, as programs write them that quantise linear layers one by one.
fn apart(expected: &ExpectedTensor, held: &mut Held, problems: &mut Problems) -> Option<Resolved> {
    let (experts, parameter) = expected.name.rsplit_once('.')?;
    let [count, output, input] = expected.matrices();
    let parts: &[&str] = if parameter == "gate_up_proj" { &["gate_proj", "up_proj"] } else { &["down_proj"] };
    let shape = [output / parts.len(), input];
    let mut first: Option<(StoredDtype, Arc<Path>)> = None;
    let (mut bytes, mut missing, mut matrices) = (0, Vec::new(), Vec::new());
    for expert in 0..count {
        if missing.len() > MAX_MISSING {
            break;
        }
        let mut stacked = Vec::new();
        for part in parts {
            let name = format!("{experts}.{expert}.{part}.weight");
            let Some(tensor) = held.take(&name) else {
                missing.push(name);
                continue;
            };
            let first = first.get_or_insert_with(|| (tensor.dtype.clone(), tensor.file.clone()));
            if tensor.dtype == StoredDtype::F8E4m3 {
                first.0 = StoredDtype::F8E4m3;
            }
            if !has_shape(&name, &shape, &tensor, problems) {
                held.take(&format!("{name}_scale"));
                continue;
            }
            let matrix = match tensor.dtype {
                StoredDtype::F8E4m3 => scaled_matrix(&name, &tensor, shape, held, problems),
                StoredDtype::Other(_) | StoredDtype::Packed(_) | StoredDtype::Blocks { .. } => {
                    problems.dtypes.push((name, tensor.dtype.clone(), tensor.file.clone()));
                    None
                }
                _ => Strided::new(&tensor, 0, shape, [input, 1])
                    .map(|view| (Matrix::Floats(view), tensor.range.len() as u64)),
            };
            // What is wrong is noted; the others are taken all the same, so that they are not called left over.
            if let Some((matrix, size)) = matrix {
                bytes += size;
                stacked.push(matrix);
            }
        }
        matrices.push(if stacked.len() == 1 { stacked.remove(0) } else { Matrix::Below(stacked) });
    }
    let Some((dtype, file)) = first else {
        // None of them: the checkpoint is one of stacked experts, which lacks this one.
        problems.missing.push(expected.name.clone());
        return None;
    };
    if missing.is_empty() {
        return Some(Resolved { matrices, dtype, file, bytes });
    }
    problems.missing.append(&mut missing);
    None
}

/// This library's own packed form: `.qweight` and `.scales`.
fn packed(
    expected: &ExpectedTensor,
    module: &str,
    words: &Arc<StoredTensor>,
    held: &mut Held,
    problems: &mut Problems,
) -> Option<Resolved> {
    let (name, scales_name) = (format!("{module}.qweight"), format!("{module}.scales"));
    let Some(scales) = held.take(&scales_name) else {
        let (found, file) = (words.dtype.clone(), words.file.to_path_buf());
        problems.others.push(ImportError::NoScale { name, scale: scales_name, found, file });
        return None;
    };
    for (name, tensor, wanted) in [(&name, words, "I32"), (&scales_name, &scales, "F16")] {
        if tensor.dtype.to_string() != wanted {
            problems.dtypes.push((name.clone(), tensor.dtype.clone(), tensor.file.clone()));
            return None;
        }
    }
    let [count, output, input] = expected.matrices();
    let shape = |width: usize| if expected.shape.len() == 3 { vec![count, output, width] } else { vec![output, width] };
    let packings = [Packing::Q4, Packing::Q8].into_iter().filter(|packing| packing.fits(input));
    let Some(packing) = packings.clone().find(|packing| shape(packing.words(input)) == words.shape) else {
        let width = packings.map(|packing| packing.words(input)).next().unwrap_or(0);
        problems.shapes.push((name, shape(width), words.shape.clone(), words.file.clone()));
        return None;
    };
    if !has_shape(&scales_name, &shape(packing.scales(input)), &scales, problems) {
        return None;
    }
    let part = |index: usize| {
        Matrix::Packed(PackedPart {
            packing,
            rows: output,
            columns: input,
            words: (words.clone(), index * output * packing.words(input) * 4),
            scales: Some((scales.clone(), index * output * packing.scales(input) * 2)),
        })
    };
    Some(Resolved {
        matrices: (0..count).map(part).collect(),
        dtype: StoredDtype::Packed(packing),
        file: words.file.clone(),
        bytes: (words.range.len() + scales.range.len()) as u64,
    })
}
