use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::GgufFile;
use crate::error::ImportError;
use crate::import::blob::Blob;

const COUNT: &str = "split.count";
const NUMBER: &str = "split.no";
const TENSORS: &str = "split.tensors.count";

/// More parts than this have no name: their numbers have five digits.
const MAX_PARTS: usize = 99_999;

/// Read the headers of a model: one file, or all parts of one that was split (`NAME-00001-of-00003.gguf` and so on), given the first.
///
/// The metadata are those of the first part; the others have none but their number.
pub(in crate::import) fn read_all(path: &Path) -> Result<GgufFile, ImportError> {
    let mut model = read_one(path)?;
    let parts = model.metadata.whole(COUNT)?.unwrap_or(1);
    if parts <= 1 {
        return Ok(model);
    }
    if parts > MAX_PARTS {
        return Err(model.metadata.invalid(COUNT, &format!("there can be {MAX_PARTS} parts at most")));
    }
    let invalid = |file: &Path, reason| ImportError::Index { file: file.to_path_buf(), reason };
    let part_name = |number: usize| format!("-{number:05}-of-{parts:05}.gguf");
    let number = model.metadata.whole(NUMBER)?.unwrap_or(0);
    if number != 0 {
        let reason = format!("it is part {} of {parts}; give the first, which ends in {}", number + 1, part_name(1));
        return Err(invalid(path, reason));
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(stem) = name.strip_suffix(&part_name(1)) else {
        let reason = format!("it is the first of {parts} parts, so its name must end in {}", part_name(1));
        return Err(invalid(path, reason));
    };
    let file_of = |number: usize| -> PathBuf { path.with_file_name(format!("{stem}{}", part_name(number))) };

    // All of them, before any is read: a download that is not finished is what is wrong most often.
    if let Some(lost) = (2..=parts).map(file_of).find(|part| !part.exists()) {
        return Err(invalid(path, format!("of its {parts} parts {} is not there", lost.display())));
    }
    let expected = model.metadata.whole(TENSORS)?;
    for part_number in 2..=parts {
        let file = file_of(part_number);
        let part = read_one(&file)?;
        let found = (part.metadata.required_whole(NUMBER)?, part.metadata.required_whole(COUNT)?);
        if found != (part_number - 1, parts) {
            let (number, count) = found;
            return Err(invalid(&file, format!("inside, it is number {number} (from 0) of {count} parts")));
        }
        model.tensors.extend(part.tensors);
    }

    let mut seen = HashMap::new();
    for tensor in &model.tensors {
        if let Some(first) = seen.insert(&*tensor.name, &tensor.file) {
            return Err(ImportError::Twice {
                name: tensor.name.clone(),
                first: (tensor.name.clone(), first.to_path_buf()),
                second: (tensor.name.clone(), tensor.file.to_path_buf()),
            });
        }
    }
    match expected {
        Some(expected) if expected != model.tensors.len() => {
            let found = model.tensors.len();
            Err(invalid(path, format!("it says that the parts have {expected} tensors in all; they have {found}")))
        }
        _ => Ok(model),
    }
}

fn read_one(path: &Path) -> Result<GgufFile, ImportError> {
    let file: Arc<Path> = path.into();
    GgufFile::read(&Blob::open(path)?, &file)
}
