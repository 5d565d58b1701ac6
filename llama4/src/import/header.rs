use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::blob::Blob;
use super::stored::{StoredDtype, StoredTensor};
use crate::error::ImportError;

/// Largest header that is read, as in the format's own libraries: a length beyond it is a corrupt file, not a model.
const MAX_HEADER: u64 = 100_000_000;

/// Every tensor of a safetensors file, in the order of their bytes.
///
/// Nothing of a header is believed before it is checked: its length against the file's, each tensor's offsets against its shape and
/// dtype, and all together against the file, which they must fill without gap or overlap.
pub(super) fn read(blob: &Blob, file: &Arc<Path>) -> Result<Vec<StoredTensor>, ImportError> {
    let corrupt = |reason: String| ImportError::Corrupt { file: file.to_path_buf(), reason };
    let size = blob.len() as u64;
    let Some((length, rest)) = blob.split_first_chunk::<8>() else {
        return Err(corrupt(format!("{size} bytes are too few for a safetensors header")));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(corrupt(format!("its header claims {length} bytes; at most {MAX_HEADER} are read")));
    }
    let length = length as usize;
    let Some((json, data)) = rest.split_at_checked(length) else {
        return Err(corrupt(format!("it is cut short: the header needs {} bytes, the file has {size}", length + 8)));
    };
    let header: Header =
        serde_json::from_slice(json).map_err(|error| corrupt(format!("its header is not valid: {error}")))?;

    let mut tensors = Vec::with_capacity(header.0.len());
    for (name, entry) in header.0 {
        let tensor = |reason: String| corrupt(format!("{name}: {reason}"));
        let dtype = StoredDtype::named(&entry.dtype);
        let [start, end] = entry.data_offsets;
        if start > end {
            return Err(tensor(format!("its bytes begin at {start} and end at {end}")));
        }
        let held = end - start;
        let elements = entry.shape.iter().try_fold(1_u64, |product, &width| product.checked_mul(width));
        let needed = match (dtype.bits(), elements) {
            (_, None) => return Err(tensor(format!("the size of shape {:?} overflows", entry.shape))),
            // A dtype of unknown width can only be skipped, so its size does not matter.
            (None, _) => held,
            (Some(bits), Some(elements)) => match elements.checked_mul(bits as u64) {
                Some(bits) => bits.div_ceil(8),
                None => return Err(tensor(format!("the size of shape {:?} overflows", entry.shape))),
            },
        };
        if held != needed {
            return Err(tensor(format!(
                "{dtype} of shape {:?} takes {needed} bytes, its offsets give {held}",
                entry.shape
            )));
        }
        if end > data.len() as u64 {
            return Err(tensor(format!(
                "the file is cut short: it ends at byte {size}, the tensor at {}",
                end.saturating_add(8 + length as u64)
            )));
        }
        let first = 8 + length;
        tensors.push(StoredTensor {
            dtype,
            // Within the file's size by now, so within `usize`; an empty tensor may still claim any width.
            shape: entry.shape.iter().map(|&width| usize::try_from(width).unwrap_or(usize::MAX)).collect(),
            file: file.clone(),
            blob: blob.clone(),
            range: first + start as usize..first + end as usize,
            name,
        });
    }

    tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
    let mut filled = 8 + length;
    for tensor in &tensors {
        if tensor.range.start != filled {
            let what = if tensor.range.start < filled { "overlap those of another tensor" } else { "leave a gap" };
            return Err(corrupt(format!(
                "{}: its bytes begin at {} and {what}, which ends at {filled}",
                tensor.name, tensor.range.start
            )));
        }
        filled = tensor.range.end;
    }
    if filled as u64 != size {
        return Err(corrupt(format!("its tensors end at byte {filled}, the file at {size}")));
    }
    Ok(tensors)
}

/// A tensor's entry.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The header: entries by name, the file's metadata left out. A map would keep one of two entries with the same name and hide
/// the other.
struct Header(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with one entry per tensor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                let mut names = std::collections::HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    if !names.insert(name.clone()) {
                        return Err(serde::de::Error::custom(format!("{name} occurs twice")));
                    }
                    let entry =
                        map.next_value().map_err(|error| serde::de::Error::custom(format!("{name}: {error}")))?;
                    entries.push((name, entry));
                }
                Ok(Header(entries))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}
