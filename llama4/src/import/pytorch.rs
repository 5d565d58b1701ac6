use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::archive;
use super::blob::Blob;
use super::pickle::{self, PickledTensor};
use super::stored::{StoredDtype, StoredTensor};
use crate::error::ImportError;

/// Largest list of tensors that is read: it takes up to a hundred times as much memory. PyTorch needs some 200 bytes for a tensor.
const MAX_PICKLE: usize = 32 << 20;

/// Every tensor of a PyTorch state dict, in the zip form that PyTorch writes since 1.6.
///
/// burn-store reads these files too, but it takes a missing or short storage for zeros and strided values for ordered ones. So what it
/// is not to be trusted with is checked here: each tensor's storage is there, holds all its elements, and holds them in order.
pub(super) fn read(blob: &Blob, file: &Arc<Path>) -> Result<Vec<StoredTensor>, ImportError> {
    read_wanted(blob, file, |_| true)
}

/// The same. Tensors whose names are not wanted are only listed, without their bytes, which may be anything.
pub(super) fn read_wanted(
    blob: &Blob,
    file: &Arc<Path>,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<Vec<StoredTensor>, ImportError> {
    let corrupt = |reason: String| ImportError::Corrupt { file: file.to_path_buf(), reason };
    let unsupported = |what: &str| ImportError::Unsupported { place: file.to_path_buf(), what: what.to_string() };
    if !blob.starts_with(b"PK") {
        return Err(match blob.first() {
            Some(0x80) => unsupported("PyTorch's format from before version 1.6"),
            _ => corrupt("it is not a PyTorch file".to_string()),
        });
    }
    let entries = archive::members(blob).map_err(corrupt)?;
    let (pickle_name, pickle) = entries
        .iter()
        .find(|(name, _)| name.as_str() == "data.pkl" || name.ends_with("/data.pkl"))
        .ok_or_else(|| corrupt("it has no data.pkl, so it is not a PyTorch file".to_string()))?;
    let folder = pickle_name.strip_suffix("data.pkl").unwrap_or_default();
    let within: HashMap<&str, &Range<usize>> =
        entries.iter().filter_map(|(name, range)| Some((name.strip_prefix(folder)?, range))).collect();
    if within.get("byteorder").is_some_and(|&range| blob[range.clone()].trim_ascii() == b"big") {
        return Err(unsupported("a PyTorch file of a big-endian machine"));
    }

    if pickle.len() > MAX_PICKLE {
        return Err(corrupt(format!("its data.pkl has {} bytes; at most {MAX_PICKLE} are read", pickle.len())));
    }
    let tensors =
        pickle::tensors(&blob[pickle.clone()]).map_err(|reason| corrupt(format!("its data.pkl has {reason}")))?;
    tensors
        .into_iter()
        .map(|tensor| {
            let placed = if is_wanted(&tensor.name) {
                let storage = within.get(&*format!("data/{}", tensor.storage));
                place(&tensor, storage.copied().cloned())
            } else {
                Ok((dtype(&tensor.storage_type), 0..0))
            };
            placed
                .map(|(dtype, range)| StoredTensor {
                    name: tensor.name.clone(),
                    dtype,
                    shape: tensor.shape.clone(),
                    file: file.clone(),
                    blob: blob.clone(),
                    range,
                })
                .map_err(|reason| corrupt(format!("{}: {reason}", tensor.name)))
        })
        .collect()
}

/// Type of a tensor's elements, and where they are.
fn place(tensor: &PickledTensor, storage: Option<Range<usize>>) -> Result<(StoredDtype, Range<usize>), String> {
    let dtype = dtype(&tensor.storage_type);
    let storage = storage.ok_or_else(|| format!("its storage {} is not in the file", tensor.storage))?;
    // Of an unknown type only the name is of use, and it will be refused.
    let Some(bits) = dtype.bits() else { return Ok((dtype, storage)) };
    let width = bits / 8;
    let elements = tensor.shape.iter().try_fold(1_usize, |product, &width| product.checked_mul(width));
    let start = tensor.offset.checked_mul(width);
    let range = elements
        .and_then(|elements| elements.checked_mul(width))
        .zip(start)
        .and_then(|(bytes, start)| Some(start..start.checked_add(bytes)?))
        .filter(|range| range.end <= storage.len());
    let Some(range) = range else {
        return Err(format!(
            "shape {:?} from element {} on does not fit its storage of {} bytes",
            tensor.shape,
            tensor.offset,
            storage.len()
        ));
    };
    if !in_order(&tensor.shape, &tensor.strides) {
        return Err(format!(
            "its values are not in order (shape {:?}, strides {:?}); save it with .contiguous()",
            tensor.shape, tensor.strides
        ));
    }
    Ok((dtype, storage.start + range.start..storage.start + range.end))
}

/// Whether values with these strides stand one after the other, the last axis fastest.
fn in_order(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1_usize;
    shape.len() == strides.len()
        && shape.iter().zip(strides).rev().all(|(&width, &stride)| {
            let fits = width <= 1 || stride == expected;
            expected = expected.saturating_mul(width);
            fits
        })
}

/// From PyTorch's name of a storage class or of a dtype.
fn dtype(name: &str) -> StoredDtype {
    StoredDtype::named(match name {
        "BFloat16Storage" | "bfloat16" => "BF16",
        "HalfStorage" | "float16" => "F16",
        "FloatStorage" | "float32" => "F32",
        "DoubleStorage" | "float64" => "F64",
        "LongStorage" | "int64" => "I64",
        "IntStorage" | "int32" => "I32",
        "ShortStorage" | "int16" => "I16",
        "CharStorage" | "int8" => "I8",
        "ByteStorage" | "uint8" => "U8",
        "BoolStorage" | "bool" => "BOOL",
        "float8_e4m3fn" => "F8_E4M3",
        "float8_e5m2" => "F8_E5M2",
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_told_from_strides() {
        assert!(in_order(&[2, 3], &[3, 1]));
        assert!(in_order(&[1, 3], &[7, 1]), "the stride of an axis of one does not matter");
        assert!(in_order(&[], &[]));
        assert!(!in_order(&[2, 3], &[1, 2]), "transposed");
        assert!(!in_order(&[2, 3], &[6, 1]), "every other row");
        assert!(!in_order(&[2, 3], &[1]));
    }
}
