use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::super::matrix::{Matrix, Strided};
use super::super::names::{ExpectedTensor, expected_tensors};
use super::super::plan::{Plan, PlannedTensor, Problems};
use super::super::stored::{StoredDtype, StoredTensor};
use super::places::{Part, Place, place, shared_widths};
use super::ranks::{Rank, is_vision};
use crate::Llama4Config;
use crate::error::ImportError;

/// The text tensors of a rank.
struct Held {
    file: Arc<Path>,
    tensors: HashMap<String, Arc<StoredTensor>>,
}

/// Compare what the ranks hold with what the model needs. `dir` is their folder, for messages.
pub(in crate::import) fn plan(config: &Llama4Config, ranks: Vec<Rank>, dir: &Path) -> Result<Plan, ImportError> {
    let count = ranks.len();
    for (what, width) in shared_widths(config) {
        if count == 0 || !width.is_multiple_of(count) {
            let reason =
                format!("{count} ranks cannot share the model's {width} {what}; are the files of all ranks there?");
            return Err(ImportError::Index { file: dir.to_path_buf(), reason });
        }
    }
    let mut vision = BTreeSet::new();
    let ranks = ranks.into_iter().map(|rank| held(rank, &mut vision)).collect::<Result<Vec<_>, _>>()?;

    let mut problems = Problems::default();
    let mut found = Vec::new();
    for expected in expected_tensors(config) {
        match place(config, &expected, count) {
            Some(place) => found.push((expected, place)),
            None => problems.missing.push(expected.name),
        }
    }
    let mut seen = HashSet::new();
    let parts: Vec<&Part> =
        found.iter().flat_map(|(_, place)| place.parts()).filter(|part| seen.insert(part.name.as_str())).collect();
    let unexpected = compare_names(&parts, &ranks, &mut problems);
    if unexpected.is_empty() && problems.missing.is_empty() && problems.others.is_empty() {
        parts.iter().for_each(|part| compare_part(part, &ranks, &mut problems));
    }
    problems.check(unexpected, dir, None)?;

    let tensors = found.into_iter().map(|(expected, place)| {
        let name = expected.name.clone();
        planned(expected, &place, &ranks).ok_or_else(|| ImportError::Names {
            place: dir.to_path_buf(),
            missing: vec![name],
            unexpected: Vec::new(),
        })
    });
    Ok(Plan { tensors: tensors.collect::<Result<_, _>>()?, skipped_vision: vision.len() })
}

/// A rank's tensors by name, without those of the vision half, whose names are added to `vision`.
fn held(rank: Rank, vision: &mut BTreeSet<String>) -> Result<Held, ImportError> {
    let mut tensors: HashMap<String, Arc<StoredTensor>> = HashMap::new();
    for tensor in rank.tensors {
        if is_vision(&tensor.name) {
            vision.insert(tensor.name);
            continue;
        }
        let place = (tensor.name.clone(), tensor.file.to_path_buf());
        if tensors.insert(tensor.name.clone(), Arc::new(tensor)).is_some() {
            return Err(ImportError::Twice { name: place.0.clone(), first: place.clone(), second: place });
        }
    }
    Ok(Held { file: rank.file, tensors })
}

/// Every rank must hold the same names. What all lack or have too many is the checkpoint's; else it is the rank's.
fn compare_names(parts: &[&Part], ranks: &[Held], problems: &mut Problems) -> Vec<Arc<StoredTensor>> {
    let expected: HashSet<&str> = parts.iter().map(|part| part.name.as_str()).collect();
    let difference = |rank: &Held| {
        let missing = parts.iter().map(|part| &part.name).filter(|name| !rank.tensors.contains_key(*name));
        let missing: Vec<String> = missing.cloned().collect();
        let mut unexpected: Vec<String> =
            rank.tensors.keys().filter(|name| !expected.contains(name.as_str())).cloned().collect();
        unexpected.sort();
        (missing, unexpected)
    };
    let mut differences: Vec<_> = ranks.iter().map(difference).collect();
    if differences.windows(2).all(|pair| pair[0] == pair[1]) {
        let Some((missing, unexpected)) = differences.pop() else { return Vec::new() };
        problems.missing.extend(missing);
        return unexpected.iter().filter_map(|name| ranks.last()?.tensors.get(name).cloned()).collect();
    }
    let different = ranks.iter().zip(differences).find(|(_, (missing, more))| !missing.is_empty() || !more.is_empty());
    if let Some((rank, (missing, unexpected))) = different {
        problems.others.push(ImportError::Names { place: rank.file.to_path_buf(), missing, unexpected });
    }
    Vec::new()
}

/// A part must have the same shape in every rank, the one that is needed, and the same type, which must be one of floats.
fn compare_part(part: &Part, ranks: &[Held], problems: &mut Problems) {
    let mut first: Option<&StoredTensor> = None;
    for tensor in ranks.iter().filter_map(|rank| rank.tensors.get(&part.name)) {
        let first = *first.get_or_insert(tensor);
        if matches!(tensor.dtype, StoredDtype::Bf16 | StoredDtype::F16 | StoredDtype::F32) {
            if tensor.dtype != first.dtype {
                let first = (&first.dtype, first.file.display());
                let reason = format!("{} is {}, but {} in {}", part.name, tensor.dtype, first.0, first.1);
                problems.others.push(ImportError::Corrupt { file: tensor.file.to_path_buf(), reason });
            }
        } else {
            problems.dtypes.push((part.name.clone(), tensor.dtype.clone(), tensor.file.clone()));
        }
        if tensor.shape != part.shape {
            let (expected, found) = (part.shape.clone(), tensor.shape.clone());
            problems.shapes.push((part.name.clone(), expected, found, tensor.file.clone()));
        }
    }
}

/// The parameter as views of the ranks' tensors, which have been compared with what is needed.
fn planned(expected: ExpectedTensor, place: &Place, ranks: &[Held]) -> Option<PlannedTensor> {
    let [count, output, input] = expected.matrices();
    // A view of each rank's tensor.
    let views = |part: &Part, first: usize, size: [usize; 2], steps: [usize; 2]| -> Option<Vec<Matrix>> {
        let view = |rank: &Held| Strided::new(rank.tensors.get(&part.name)?, first, size, steps).map(Matrix::Floats);
        ranks.iter().map(view).collect()
    };
    let matrices = match place {
        Place::Copied(part) => views(part, 0, [output, input], [input, 1])?.into_iter().take(1).collect(),
        Place::CopiedTurned(part) => views(part, 0, [output, input], [1, output])?.into_iter().take(1).collect(),
        Place::Rows { part, first, rows } => {
            vec![joined(views(part, first * input, [*rows, input], [input, 1])?, Matrix::Below)]
        }
        Place::Columns(part) => {
            let width = input / ranks.len();
            vec![joined(views(part, 0, [output, width], [width, 1])?, Matrix::Beside)]
        }
        Place::GateUp(parts) => {
            let width = output / 2 / ranks.len();
            let expert = |expert: usize| -> Option<Matrix> {
                let views = |part| views(part, expert * input * width, [width, input], [1, width]);
                let [gate, up] = parts;
                Some(Matrix::Below([views(gate)?, views(up)?].concat()))
            };
            (0..count).map(expert).collect::<Option<_>>()?
        }
        Place::Down(part) => {
            let width = input / ranks.len();
            let expert = |expert: usize| {
                let views = views(part, expert * width * output, [output, width], [1, output])?;
                Some(joined(views, Matrix::Beside))
            };
            (0..count).map(expert).collect::<Option<_>>()?
        }
    };
    let bytes = place.parts().iter().filter_map(|part| bytes(part, place, ranks)).sum();
    let first = ranks.first()?.tensors.get(&place.parts().first()?.name)?;
    Some(PlannedTensor { matrices, dtype: first.dtype.clone(), file: first.file.clone(), bytes, expected })
}

fn joined(mut parts: Vec<Matrix>, join: impl Fn(Vec<Matrix>) -> Matrix) -> Matrix {
    if parts.len() == 1 { parts.remove(0) } else { join(parts) }
}

/// Bytes of a part that are read, in all ranks.
fn bytes(part: &Part, place: &Place, ranks: &[Held]) -> Option<u64> {
    let rank = ranks.first()?.tensors.get(&part.name)?.range.len();
    let bytes = match place {
        Place::Copied(_) | Place::CopiedTurned(_) => rank,
        Place::Rows { rows, .. } => ranks.len() * (rank / part.shape.first()? * rows),
        Place::Columns(_) | Place::GateUp(_) | Place::Down(_) => ranks.len() * rank,
    };
    Some(bytes as u64)
}
