use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::blob::Blob;
use super::checkpoint::Checkpoint;
use super::report::WeightsForm;
use super::source::ModelSource;
use super::stored::StoredTensor;
use super::{header, index, meta, pytorch};
use crate::error::ImportError;

/// Names of weights, in the order in which they are looked for.
const NAMES: [(&str, WeightsForm); 6] = [
    ("model.safetensors.index.json", WeightsForm::ShardedSafetensors),
    ("model.safetensors", WeightsForm::Safetensors),
    ("pytorch_model.bin.index.json", WeightsForm::ShardedPyTorch),
    ("pytorch_model.bin", WeightsForm::PyTorch),
    ("model.mpk", WeightsForm::BurnRecord),
    ("model.bin", WeightsForm::BurnRecord),
];

/// Whether a path is that of a GGUF file.
pub(super) fn is_gguf(path: &Path) -> bool {
    path.is_file() && has_gguf_name(path)
}

fn has_gguf_name(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// The GGUF file of a folder that has one, or the parts of one, and no weights of another form.
pub(super) fn lone_gguf(dir: &Path) -> Option<PathBuf> {
    if NAMES.iter().any(|(name, _)| dir.join(name).exists()) {
        return None;
    }
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| has_gguf_name(file));
    files.sort();
    // Of several parts the first is the one that is opened; of several models none is chosen.
    let parts = |file: &PathBuf| file.to_string_lossy().contains("-00001-of-");
    match files.as_slice() {
        [file] => Some(file.clone()),
        [first, ..] if parts(first) && files.iter().filter(|file| parts(file)).count() == 1 => Some(first.clone()),
        _ => None,
    }
}

/// The weights of a folder: the first form that is there; after the names that say what they are, Meta's ranks, and then a lone `.pth` or
/// `.pt`.
pub(super) fn find(dir: &Path) -> Result<(WeightsForm, PathBuf), ImportError> {
    for (name, form) in NAMES {
        let file = dir.join(name);
        if file.exists() {
            return Ok((form, file));
        }
    }
    if let Some(first) = meta::files(dir)?.into_iter().next() {
        return Ok((WeightsForm::MetaRanks, first));
    }
    let unreadable = |error| ImportError::Read { file: dir.to_path_buf(), error };
    let mut pickles = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        if file.extension().is_some_and(|extension| extension == "pth" || extension == "pt") {
            pickles.push(file);
        }
    }
    let unsupported = |what: String| ImportError::Unsupported { place: dir.to_path_buf(), what };
    match pickles.len() {
        0 => {
            let names = NAMES.iter().map(|(name, _)| *name).chain(["consolidated.00.pth", "*.pth", "*.pt"]);
            Err(ImportError::NoWeights { dir: dir.to_path_buf(), looked_for: names.map(str::to_owned).collect() })
        }
        1 => Ok((WeightsForm::PyTorch, pickles.remove(0))),
        count => Err(unsupported(format!("a folder with {count} .pth or .pt files and no index"))),
    }
}

impl Checkpoint {
    /// Everything that the weights' headers list. Not for burn's records, which have none.
    pub(super) fn stored(&self) -> Result<Vec<StoredTensor>, ImportError> {
        let file: Arc<Path> = self.file.clone().into();
        if let ModelSource::Embedded(files) = &self.source {
            return header::read(&Blob::Static(files.weights), &file);
        }
        match self.form {
            WeightsForm::ShardedSafetensors => index::read(&file, header::read),
            WeightsForm::ShardedPyTorch => index::read(&file, pytorch::read),
            WeightsForm::PyTorch => pytorch::read(&Blob::open(&file)?, &file),
            WeightsForm::Safetensors | WeightsForm::Embedded => header::read(&Blob::open(&file)?, &file),
            WeightsForm::MetaRanks => {
                Ok(meta::read(self.source.place())?.into_iter().flat_map(|rank| rank.tensors).collect())
            }
            WeightsForm::BurnRecord | WeightsForm::Gguf => Ok(Vec::new()),
        }
    }
}
