//! Checkpoints to write: a golden's tensors, changed at will.

use std::fs;
use std::io::{Cursor, Seek, SeekFrom, Write};
use std::sync::Arc;

use serde_json::{Map, json};
use tempfile::TempDir;

use super::super::blob::Blob;
use super::super::header;
use super::*;

/// A tensor to be written. `dtype` is safetensors' name of its type.
#[derive(Debug, Clone)]
pub(super) struct RawTensor {
    pub(super) name: String,
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Vec<u8>,
}

impl RawTensor {
    pub(super) fn new(name: &str, dtype: &str, shape: &[usize], width: usize) -> Self {
        let bytes = vec![0; shape.iter().product::<usize>() * width];
        Self { name: name.to_string(), dtype: dtype.to_string(), shape: shape.to_vec(), bytes }
    }
}

/// The tensors of a safetensors file.
pub(super) fn tensors_of(file: &Path) -> Vec<RawTensor> {
    let file: Arc<Path> = file.into();
    header::read(&Blob::open(&file).unwrap(), &file)
        .unwrap()
        .into_iter()
        .map(|tensor| RawTensor {
            name: tensor.name.clone(),
            dtype: tensor.dtype.to_string(),
            shape: tensor.shape.clone(),
            bytes: tensor.bytes().to_vec(),
        })
        .collect()
}

/// A folder with a golden's configuration, to be filled.
pub(super) struct Checkpoint {
    pub(super) dir: TempDir,
    pub(super) tensors: Vec<RawTensor>,
}

impl Checkpoint {
    pub(super) fn of(golden_name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let golden = golden(golden_name);
        fs::copy(golden.join("config.json"), dir.path().join("config.json")).unwrap();
        Self { dir, tensors: tensors_of(&golden.join("model.safetensors")) }
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Write everything as one safetensors file.
    pub(super) fn written(self) -> Self {
        fs::write(self.file("model.safetensors"), safetensors(&self.tensors)).unwrap();
        self
    }

    /// Spread the tensors over `count` files, one after the other in turn, so that layers span files.
    pub(super) fn sharded(self, count: usize) -> Self {
        let shard = |index: usize| format!("model-{:05}-of-{count:05}.safetensors", index % count + 1);
        let mut map = Map::new();
        for (index, tensor) in self.tensors.iter().enumerate() {
            map.insert(tensor.name.clone(), shard(index).into());
        }
        for first in 0..count {
            let part: Vec<_> = self.tensors.iter().skip(first).step_by(count).cloned().collect();
            fs::write(self.file(&shard(first)), safetensors(&part)).unwrap();
        }
        let index = json!({ "metadata": { "total_size": 0 }, "weight_map": map });
        fs::write(self.file("model.safetensors.index.json"), index.to_string()).unwrap();
        self
    }

    /// Change a value of the configuration.
    pub(super) fn configured(self, key: &str, value: serde_json::Value) -> Self {
        let file = self.file("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        config[key] = value;
        fs::write(file, config.to_string()).unwrap();
        self
    }

    pub(super) fn tensor(&mut self, name: &str) -> &mut RawTensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    pub(super) fn remove(&mut self, name: &str) {
        let before = self.tensors.len();
        self.tensors.retain(|tensor| tensor.name != name);
        assert_eq!(self.tensors.len(), before - 1);
    }
}

/// A safetensors file with these tensors one after the other.
pub(super) fn safetensors(tensors: &[RawTensor]) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut data = Vec::new();
    for tensor in tensors {
        let start = data.len();
        data.extend_from_slice(&tensor.bytes);
        let entry = json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()] });
        entries.push(format!("{}:{entry}", json!(tensor.name)));
    }
    with_header(&format!("{{{}}}", entries.join(",")), &data)
}

/// A safetensors file with this text as its header.
pub(super) fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A tensor of a PyTorch file, in a storage of its own.
pub(super) struct Pickled {
    pub(super) tensor: RawTensor,
    pub(super) offset: usize,
    pub(super) strides: Vec<usize>,
}

impl From<RawTensor> for Pickled {
    fn from(tensor: RawTensor) -> Self {
        let mut strides: Vec<usize> = Vec::new();
        for axis in (0..tensor.shape.len()).rev() {
            let inner = tensor.shape.get(axis + 1).copied().unwrap_or(1);
            strides.push(strides.last().copied().unwrap_or(1) * inner);
        }
        strides.reverse();
        Self { tensor, offset: 0, strides }
    }
}

/// A state dict as `torch.save` writes it: a zip of a pickle and the storages.
pub(super) fn pytorch_file(tensors: &[Pickled]) -> Vec<u8> {
    pytorch_file_with(tensors, |_| {})
}

/// The same with a change to the pickle.
pub(super) fn pytorch_file_with(tensors: &[Pickled], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut pickle = vec![0x80, 2, b'}', b'q', 0, b'('];
    let text = |out: &mut Vec<u8>, text: &str| {
        out.push(b'X');
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let number = |out: &mut Vec<u8>, value: usize| {
        out.push(b'J');
        out.extend((value as i32).to_le_bytes());
    };
    for (index, Pickled { tensor, offset, strides }) in tensors.iter().enumerate() {
        let (class, width) = match tensor.dtype.as_str() {
            "BF16" => ("BFloat16Storage", 2),
            "F16" => ("HalfStorage", 2),
            "F32" => ("FloatStorage", 4),
            "I32" => ("IntStorage", 4),
            other => panic!("no storage for {other}"),
        };
        text(&mut pickle, &tensor.name);
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut pickle, "storage");
        pickle.extend(format!("ctorch\n{class}\n").bytes());
        text(&mut pickle, &index.to_string());
        text(&mut pickle, "cpu");
        number(&mut pickle, tensor.bytes.len() / width);
        pickle.extend(b"tQ");
        number(&mut pickle, *offset);
        for sizes in [&tensor.shape, strides] {
            pickle.push(b'(');
            sizes.iter().for_each(|&size| number(&mut pickle, size));
            pickle.push(b't');
        }
        pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    pickle.extend(b"u.");
    change(&mut pickle);

    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut add = |name: &str, bytes: &[u8]| {
        zip.start_file(format!("archive/{name}"), stored).unwrap();
        zip.write_all(bytes).unwrap();
    };
    add("data.pkl", &pickle);
    add("byteorder", b"little");
    for (index, Pickled { tensor, .. }) in tensors.iter().enumerate() {
        add(&format!("data/{index}"), &tensor.bytes);
    }
    add("version", b"3\n");
    zip.finish().unwrap().into_inner()
}

/// Change a file in one byte after the other, in three ways each, and read what it says of its tensors. Whether that is still a model is
/// not the question: a panic is a failure, an error is not.
pub(super) fn flip_bytes(checkpoint: &Checkpoint, name: &str, positions: impl Iterator<Item = usize>) {
    let path = checkpoint.file(name);
    let whole = fs::read(&path).unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let mut put = |position: usize, byte: u8| {
        file.seek(SeekFrom::Start(position as u64)).unwrap();
        file.write_all(&[byte]).unwrap();
    };
    let opened = crate::import::Checkpoint::open(checkpoint.path()).unwrap();
    assert!(opened.survey().is_ok());
    for position in positions {
        for flip in [0x01, 0x10, 0xff] {
            put(position, whole[position] ^ flip);
            let _ = opened.survey();
        }
        put(position, whole[position]);
    }
}
