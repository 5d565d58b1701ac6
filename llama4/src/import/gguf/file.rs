use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::cursor::Cursor;
use super::kind::{GgmlType, row_bytes};
use super::metadata::Metadata;
use crate::error::ImportError;
use crate::import::blob::Blob;

/// Where tensors begin: multiples of this, unless `general.alignment` says another power of two.
const DEFAULT_ALIGNMENT: usize = 32;

/// Most axes of a tensor, as in ggml.
const MAX_AXES: u32 = 4;

/// Longest name of a tensor. ggml's own limit is 64, some forks have 128.
const MAX_NAME: usize = 255;

/// Most tensors that are read; Maverick has some six hundred.
const MAX_TENSORS: usize = 1 << 20;

/// Bytes of the smallest entry: a length, no name, no axes, a type, an offset.
const SMALLEST_ENTRY: usize = 8 + 4 + 4 + 8;

/// A tensor as a GGUF file holds it: what its header says, and where its bytes are.
#[derive(Debug, Clone)]
pub(in crate::import) struct GgufTensor {
    /// ggml's name.
    pub(in crate::import) name: String,
    pub(in crate::import) kind: GgmlType,
    /// Slowest axis first, as everywhere in this library; ggml lists them the other way round.
    pub(in crate::import) shape: Vec<usize>,
    /// The file, for messages.
    pub(in crate::import) file: Arc<Path>,
    pub(in crate::import) blob: Blob,
    /// Where in `blob`; seen to be within it.
    pub(in crate::import) range: Range<usize>,
}

impl GgufTensor {
    pub(in crate::import) fn bytes(&self) -> &[u8] {
        &self.blob[self.range.clone()]
    }
}

/// What a GGUF file holds: metadata, and where its tensors are.
#[derive(Debug, Clone)]
pub(in crate::import) struct GgufFile {
    pub(in crate::import) metadata: Metadata,
    /// In the order of their bytes.
    pub(in crate::import) tensors: Vec<GgufTensor>,
}

impl GgufFile {
    /// Read the header of one file, of version 2 or 3.
    ///
    /// Nothing of it is believed before it is checked: counts and lengths against the file's size, and each tensor's place against its
    /// shape and type, the file and the other tensors.
    pub(in crate::import) fn read(blob: &Blob, file: &Arc<Path>) -> Result<Self, ImportError> {
        let corrupt = |reason: String| ImportError::Corrupt { file: file.to_path_buf(), reason };
        let mut cursor = Cursor::new(blob);
        check_version(&mut cursor, file)?;
        let tensor_count = cursor.count("tensors", SMALLEST_ENTRY, MAX_TENSORS).map_err(corrupt)?;
        let key_count = Metadata::count(&mut cursor).map_err(corrupt)?;
        let metadata = Metadata::read(&mut cursor, key_count, blob, file).map_err(corrupt)?;
        let alignment = match metadata.whole("general.alignment")? {
            None => DEFAULT_ALIGNMENT,
            Some(alignment) if alignment.is_power_of_two() => alignment,
            Some(_) => return Err(metadata.invalid("general.alignment", "it must be a power of two")),
        };

        let mut entries = Vec::new();
        let mut names = HashSet::new();
        for index in 0..tensor_count {
            let name = cursor.name(MAX_NAME).map_err(|reason| corrupt(format!("tensor {index}: {reason}")))?;
            if !names.insert(name) {
                return Err(corrupt(format!("{name} occurs twice")));
            }
            entries.push(Entry::read(name, &mut cursor, file)?);
        }

        let first = cursor.position().checked_next_multiple_of(alignment);
        let place = |entry: Entry| {
            let name = entry.name;
            let range = entry.place(first, alignment, blob.len());
            let range = range.map_err(|reason| corrupt(format!("{name}: {reason}")))?;
            let Entry { kind, shape, .. } = entry;
            Ok(GgufTensor { name: name.to_string(), kind, shape, file: file.clone(), blob: blob.clone(), range })
        };
        let mut tensors = entries.into_iter().map(place).collect::<Result<Vec<_>, ImportError>>()?;
        tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
        for pair in tensors.windows(2) {
            if pair[1].range.start < pair[0].range.end {
                let [a, b] = [&pair[0], &pair[1]].map(|tensor| (&tensor.name, &tensor.range));
                return Err(corrupt(format!("{} at bytes {:?} and {} at {:?} overlap", a.0, a.1, b.0, b.1)));
            }
        }
        Ok(Self { metadata, tensors })
    }

    /// The file, or the first part of several.
    #[cfg(test)]
    pub(in crate::import) fn file(&self) -> &Path {
        self.metadata.file()
    }

    /// The tensor that has ggml's `name`.
    pub(in crate::import) fn tensor(&self, name: &str) -> Option<&GgufTensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

fn check_version(cursor: &mut Cursor, file: &Path) -> Result<(), ImportError> {
    let corrupt = |reason: String| ImportError::Corrupt { file: file.to_path_buf(), reason };
    let unsupported = |what: String| Err(ImportError::Unsupported { place: file.to_path_buf(), what });
    let magic = cursor.take::<4>().map_err(corrupt)?;
    if magic != *b"GGUF" {
        return Err(corrupt(format!("it begins with \"{}\", not with \"GGUF\"", magic.escape_ascii())));
    }
    match cursor.u32().map_err(corrupt)? {
        2 | 3 => Ok(()),
        version if version.swap_bytes() <= 0xffff => unsupported("a GGUF file of a big-endian machine".to_string()),
        version => unsupported(format!("version {version} of GGUF (2 and 3 can)")),
    }
}

/// A tensor's entry in the header.
struct Entry<'a> {
    name: &'a str,
    kind: GgmlType,
    shape: Vec<usize>,
    /// Bytes that shape and type need.
    bytes: usize,
    /// Where it says they begin, counted from the first tensor.
    offset: u64,
}

impl<'a> Entry<'a> {
    /// What follows a tensor's name.
    fn read(name: &'a str, cursor: &mut Cursor, file: &Path) -> Result<Self, ImportError> {
        let corrupt =
            |reason: String| ImportError::Corrupt { file: file.to_path_buf(), reason: format!("{name}: {reason}") };
        let axes = cursor.u32().map_err(corrupt)?;
        if axes > MAX_AXES {
            return Err(corrupt(format!("it has {axes} axes; there are at most {MAX_AXES}")));
        }
        let mut widths = Vec::new();
        for _ in 0..axes {
            widths.push(cursor.u64().map_err(corrupt)?);
        }
        widths.reverse();
        let id = cursor.u32().map_err(corrupt)?;
        let Some(kind) = GgmlType::from_id(id) else {
            let what = format!("ggml's type {id}, which {name} has,");
            return Err(ImportError::Unsupported { place: file.to_path_buf(), what });
        };
        let offset = cursor.u64().map_err(corrupt)?;

        let overflow = || corrupt(format!("the size of shape {widths:?} overflows"));
        let shape: Vec<usize> =
            widths.iter().map(|&width| usize::try_from(width)).collect::<Result<_, _>>().map_err(|_| overflow())?;
        let (rows, columns) = match shape.split_last() {
            Some((&columns, rows)) => (rows, columns),
            None => (&[][..], 1),
        };
        if !columns.is_multiple_of(kind.block_values()) {
            let block = kind.block_values();
            return Err(corrupt(format!(
                "a row of {columns} values is not a whole number of {kind}'s blocks of {block}"
            )));
        }
        let row = row_bytes(kind, columns).ok_or_else(overflow)?;
        let bytes = rows.iter().try_fold(row, |product, &width| product.checked_mul(width)).ok_or_else(overflow)?;
        // An empty axis hides the others from that product.
        shape.iter().try_fold(1_usize, |product, &width| product.checked_mul(width.max(1))).ok_or_else(overflow)?;
        Ok(Self { name, kind, shape, bytes, offset })
    }

    /// Where its bytes are, if that is in the file. `first` is where tensors begin.
    fn place(&self, first: Option<usize>, alignment: usize, size: usize) -> Result<Range<usize>, String> {
        let Self { offset, bytes, .. } = *self;
        if !offset.is_multiple_of(alignment as u64) {
            return Err(format!("its offset {offset} is not a multiple of {alignment}"));
        }
        let start = usize::try_from(offset).ok().zip(first).and_then(|(offset, first)| first.checked_add(offset));
        let range = start.and_then(|start| Some(start..start.checked_add(bytes)?));
        range.filter(|range| range.end <= size).ok_or_else(|| {
            format!("the file is cut short: it has {size} bytes, the tensor {bytes} from offset {offset} on")
        })
    }
}
