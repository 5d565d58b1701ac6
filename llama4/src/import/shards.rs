//! Tensors are written to safetensors files of a bounded size, with an index and a checksum for each.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::error::ImportError;

/// Name of the list of checksums, as `sha256sum --check` reads it.
pub(super) const CHECKSUMS: &str = "SHA256SUMS";

/// Pieces that may wait for the disk.
const WAITING: usize = 8;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    /// As safetensors calls it.
    pub(super) dtype: &'static str,
    pub(super) shape: Vec<usize>,
}

impl Entry {
    pub(super) fn bytes(&self) -> u64 {
        let width = match self.dtype {
            "F32" | "I32" => 4,
            _ => 2,
        };
        self.shape.iter().map(|&width| width as u64).product::<u64>() * width
    }
}

/// A file and what it should contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checksum {
    pub(super) name: String,
    pub(super) sha256: [u8; 32],
}

/// Tensors that are written together; they stay in one file.
pub(super) type Unit = Vec<Entry>;

/// Takes the bytes of a unit's tensors, in order.
pub(super) type Sink<'a> = dyn FnMut(Vec<u8>) -> Result<(), ImportError> + 'a;

/// Which units go to which file: consecutive ones, as many as fit.
pub(super) fn lay_out(units: &[Unit], most_bytes: u64) -> Vec<std::ops::Range<usize>> {
    let (mut files, mut first, mut held) = (Vec::new(), 0, 0);
    for (index, unit) in units.iter().enumerate() {
        let size: u64 = unit.iter().map(Entry::bytes).sum();
        if index > first && held + size > most_bytes {
            files.push(first..index);
            (first, held) = (index, 0);
        }
        held += size;
    }
    files.push(first..units.len());
    files
}

/// Write units to `model-NNNNN-of-NNNNN.safetensors` and their index. `produce` is asked for each unit in turn; it hands all of the unit's
/// bytes to the sink, in pieces of any size. While it works on the next piece, the last ones are hashed and written.
pub(super) fn write(
    dir: &Path,
    units: &[Unit],
    most_bytes: u64,
    mut produce: impl FnMut(usize, &mut Sink) -> Result<(), ImportError>,
) -> Result<Vec<Checksum>, ImportError> {
    let files = lay_out(units, most_bytes);
    let (mut checksums, mut weight_map, mut total) = (Vec::new(), Map::new(), 0);
    for (index, file) in files.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", index + 1, files.len());
        let path = dir.join(&name);
        let entries = units[file.clone()].iter().flatten();
        for entry in entries.clone() {
            weight_map.insert(entry.name.clone(), json!(name));
            total += entry.bytes();
        }
        let header = header(entries);
        let sha256 = write_hashed(&path, |send| {
            send(header)?;
            file.clone().try_for_each(|unit| produce(unit, send))
        })?;
        checksums.push(Checksum { name, sha256 });
    }
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    let text = format!("{index:#}\n");
    checksums.push(write_text(dir, "model.safetensors.index.json", text.as_bytes())?);
    Ok(checksums)
}

/// Write a small file.
pub(super) fn write_text(dir: &Path, name: &str, text: &[u8]) -> Result<Checksum, ImportError> {
    let path = dir.join(name);
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(text)?;
        file.sync_all()
    });
    written.map_err(|error| ImportError::Write { file: path, error })?;
    Ok(Checksum { name: name.to_string(), sha256: Sha256::digest(text).into() })
}

/// Write the checksums of all other files.
pub(super) fn write_checksums(dir: &Path, checksums: &[Checksum]) -> Result<(), ImportError> {
    let line = |Checksum { name, sha256 }: &Checksum| format!("{}  {name}\n", hex(sha256));
    let text: String = checksums.iter().map(line).collect();
    write_text(dir, CHECKSUMS, text.as_bytes()).map(drop)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Write a file on a thread of its own and give its checksum.
fn write_hashed(
    path: &Path,
    produce: impl FnOnce(&mut Sink) -> Result<(), ImportError>,
) -> Result<[u8; 32], ImportError> {
    let failed = |error| ImportError::Write { file: path.to_path_buf(), error };
    let mut file = File::create(path).map_err(failed)?;
    let (sender, receiver) = mpsc::sync_channel::<Vec<u8>>(WAITING);
    thread::scope(|scope| {
        let writer = scope.spawn(move || -> io::Result<[u8; 32]> {
            let mut hash = Sha256::new();
            for piece in receiver {
                file.write_all(&piece)?;
                hash.update(&piece);
            }
            file.sync_all()?;
            Ok(hash.finalize().into())
        });
        let produced = produce(&mut |piece| {
            // The writer only goes away early when it has failed, and then says why below.
            sender.send(piece).map_err(|_| failed(io::Error::other("the file cannot be written")))
        });
        drop(sender);
        let written = match writer.join() {
            Ok(written) => written.map_err(failed),
            Err(panic) => std::panic::resume_unwind(panic),
        };
        // What the disk says is the cause of what the producer then sees.
        let sha256 = written?;
        produced.map(|()| sha256)
    })
}

/// A safetensors header with its length in front, padded so that the data begins at a multiple of 64.
fn header<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<u8> {
    let mut tensors = Map::new();
    tensors.insert("__metadata__".to_string(), json!({ "format": "pt" }));
    let mut start = 0;
    for entry in entries {
        let end = start + entry.bytes();
        let value = json!({ "dtype": entry.dtype, "shape": entry.shape, "data_offsets": [start, end] });
        tensors.insert(entry.name.clone(), value);
        start = end;
    }
    let mut text = Value::Object(tensors).to_string().into_bytes();
    text.resize((text.len() + 8).next_multiple_of(64) - 8, b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.append(&mut text);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, dtype: &'static str, elements: usize) -> Entry {
        Entry { name: name.to_string(), dtype, shape: vec![elements] }
    }

    #[test]
    fn files_hold_as_many_whole_units_as_fit() {
        let units = [4, 4, 100, 4, 4, 4].map(|size| vec![entry("a", "F32", size / 4)]);
        assert_eq!(lay_out(&units, 8), [0..2, 2..3, 3..5, 5..6]);
        assert_eq!(lay_out(&units, 1000), std::slice::from_ref(&(0..6)));
    }

    #[test]
    fn what_is_written_is_read_back_and_its_checksum_is_that_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let units = [vec![entry("a.qweight", "I32", 2), entry("a.scales", "F16", 1)], vec![entry("b", "BF16", 3)]];
        let checksums = write(dir.path(), &units, 8, |unit, send| {
            units[unit].iter().try_for_each(|entry| send(vec![unit as u8; entry.bytes() as usize]))
        })
        .unwrap();
        let names: Vec<&str> = checksums.iter().map(|checksum| checksum.name.as_str()).collect();
        let files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        assert_eq!(names, [files[0], files[1], "model.safetensors.index.json"]);
        for checksum in &checksums {
            let bytes = std::fs::read(dir.path().join(&checksum.name)).unwrap();
            assert_eq!(checksum.sha256, <[u8; 32]>::from(Sha256::digest(&bytes)));
        }
        let bytes = std::fs::read(dir.path().join(files[0])).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.tensor("a.qweight").unwrap().data(), [0; 8]);
        assert_eq!(file.tensor("a.scales").unwrap().shape(), [1]);
    }

    #[test]
    fn an_error_of_the_producer_is_the_one_that_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let cancelled = || ImportError::Cancelled { bytes_done: 1, bytes_total: 2 };
        let error = write(dir.path(), &[vec![entry("a", "F32", 1)]], 8, |_, _| Err(cancelled())).unwrap_err();
        assert!(matches!(error, ImportError::Cancelled { bytes_done: 1, .. }), "{error}");
    }
}
