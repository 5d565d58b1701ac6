use std::fmt;
use std::path::PathBuf;

use burn::tensor::DType;

use super::{ConfigError, LoraError, TextError};
use crate::import::StoredDtype;
use crate::quant::Packing;

/// What can go wrong between a checkpoint and a model.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file cannot be read.
    #[error("cannot read {}: {error}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {error}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The checkpoint's folder is not there, or is not a folder.
    #[error("{} is not a folder; a checkpoint is a folder with config.json and weights in it", dir.display())]
    NoFolder {
        /// The path given.
        dir: PathBuf,
    },
    /// A folder without a configuration.
    #[error("{} has no config.json, so it is not a checkpoint of this library's or Hugging Face's format", dir.display())]
    NoConfig {
        /// The folder.
        dir: PathBuf,
    },
    /// A folder without weights.
    #[error("{} has no weights; looked for {}", dir.display(), looked_for.join(", "))]
    NoWeights {
        /// The folder.
        dir: PathBuf,
        /// The names that were tried.
        looked_for: Vec<String>,
    },
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tokenizer or the chat template is wrong.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A weights file that is damaged, or not of the format that its name says.
    #[error("{} is damaged: {reason}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// What is wrong, with the tensor's name where it is about one.
        reason: String,
    },
    /// A list of shards that is wrong in itself.
    #[error("{}: {reason}", file.display())]
    Index {
        /// The index.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A shard that the index names is not there.
    #[error("{} puts {tensor} in {shard}, which is not there", index.display())]
    ShardMissing {
        /// The index.
        index: PathBuf,
        /// The first tensor that should be in it.
        tensor: String,
        /// The file that is not there.
        shard: PathBuf,
    },
    /// The index and the shards disagree about where a tensor is.
    #[error("{}: {tensor} is {}", index.display(), whereabouts(expected.as_deref(), found.as_deref()))]
    ShardContent {
        /// The index.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard that the index names for it.
        expected: Option<String>,
        /// The shard that holds it, of those looked into.
        found: Option<String>,
    },
    /// The names in the checkpoint are not those of the model.
    #[error("the weights in {} are not this model's: {}", place.display(), NameDifference(missing, unexpected))]
    Names {
        /// Folder or file.
        place: PathBuf,
        /// Parameters of the model that the checkpoint lacks.
        missing: Vec<String>,
        /// Tensors of the checkpoint that the model has no place for.
        unexpected: Vec<String>,
    },
    /// The same parameter more than once, under names that differ in their prefix or in several files.
    #[error("{name} is there twice: as {} in {} and as {} in {}", first.0, first.1.display(), second.0, second.1.display())]
    Twice {
        /// The parameter.
        name: String,
        /// Full name and file.
        first: (String, PathBuf),
        /// Full name and file.
        second: (String, PathBuf),
    },
    /// A tensor of the wrong shape.
    #[error("{name}: expected shape {expected:?}, {} has {found:?}{}", file.display(), and_more(*more))]
    Shape {
        /// The parameter.
        name: String,
        /// Shape that the configuration asks for.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
        /// The file.
        file: PathBuf,
        /// How many further tensors have a wrong shape.
        more: usize,
    },
    /// A parameter whose elements are of a type that cannot be loaded.
    #[error("{name}: expected BF16, F16 or F32, {} has {found}, which is not supported{}", file.display(), and_more(*more))]
    Dtype {
        /// The parameter.
        name: String,
        /// Type in the file.
        found: StoredDtype,
        /// The file.
        file: PathBuf,
        /// How many further parameters have such a type.
        more: usize,
    },
    /// Quantised weights in a layout that this library does not read.
    #[error(
        "{name} in {} is {found}, quantised by {method}, and {count} tensors are, in a layout that cannot be read; what can is F8_E4M3 \
         with a weight_scale for each projection, GGUF, and what `import` writes",
        file.display()
    )]
    Quantised {
        /// The first such tensor.
        name: String,
        /// Its type.
        found: StoredDtype,
        /// `quantization_config.quant_method` of the configuration, or "an unnamed method".
        method: String,
        /// The file.
        file: PathBuf,
        /// Number of such tensors.
        count: usize,
    },
    /// A quantised weight without its scales.
    #[error("{name} in {} is {found} and has no {scale}, without which its values mean nothing", file.display())]
    NoScale {
        /// The weight.
        name: String,
        /// Name that its scales should have.
        scale: String,
        /// Type of the weight.
        found: StoredDtype,
        /// The file.
        file: PathBuf,
    },
    /// A version of this library's own layout that it does not know.
    #[error(
        "{} is of version {} of the llama4-burn layout; this build reads versions 1 to {supported}: a newer one is needed",
        file.display(),
        found.map_or("an unnamed number".to_string(), |found| found.to_string())
    )]
    LayoutVersion {
        /// The configuration that says so.
        file: PathBuf,
        /// The version found.
        found: Option<usize>,
        /// The newest version that is read.
        supported: usize,
    },
    /// A folder that is to be written is there.
    #[error("{} is there and not empty; choose another name, or say that it may be replaced", folder.display())]
    Occupied {
        /// The folder.
        folder: PathBuf,
    },
    /// A layout that other programs write and this library does not read.
    #[error("{}: {what} cannot be read yet; convert it to safetensors with Hugging Face's names", place.display())]
    Unsupported {
        /// File or folder.
        place: PathBuf,
        /// The layout.
        what: String,
    },
    /// A model with quantised weights is to be saved as floats.
    #[error(
        "{} cannot be saved: {packed} of the model's weights are quantised; save the model they came from, or convert its checkpoint \
         with `import`",
        file.display()
    )]
    SavePacked {
        /// The file.
        file: PathBuf,
        /// Number of quantised weights.
        packed: usize,
    },
    /// A tensor that the device cannot bind.
    #[error(
        "{name} takes {bytes} bytes, but a tensor on this device has at most {largest}; take fewer bits (quantised or \
         16-bit weights) or another device"
    )]
    TensorTooLarge {
        /// Path in the model.
        name: String,
        /// Its size.
        bytes: u64,
        /// The device's limit.
        largest: u64,
    },
    /// A model with adapters is to be saved as a whole.
    #[error("{} cannot be saved from a model with adapters; merge them first, or save them alone", file.display())]
    SaveAdapted {
        /// The file.
        file: PathBuf,
    },
    /// A field of an adapter's configuration that is wrong, or asks for what this library does not do.
    #[error("{}: {field} is {found}, expected {expected}", file.display())]
    Adapter {
        /// The configuration.
        file: PathBuf,
        /// The field.
        field: String,
        /// Its value, as JSON.
        found: String,
        /// What it may be.
        expected: String,
    },
    /// Adapters that do not go with the model.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// A type that the backend has no tensors of.
    #[error("the model cannot be loaded as {dtype:?}: {backend} does not support it")]
    BackendDtype {
        /// The type asked for.
        dtype: DType,
        /// The backend's name.
        backend: String,
    },
    /// A value that the type asked for cannot hold.
    #[error("{name} in {}: a value is beyond the range of F16 (65504); BF16 and F32 can hold it", file.display())]
    Overflow {
        /// The parameter.
        name: String,
        /// The file.
        file: PathBuf,
    },
    /// A value that cannot be quantised.
    #[error(
        "{name} in {}: a value is not finite, or too large for {packing} (a block's scale is at most 65504)",
        file.display()
    )]
    NotRepresentable {
        /// The parameter.
        name: String,
        /// How it was to be packed.
        packing: Packing,
        /// The file.
        file: PathBuf,
    },
    /// A loader failed although the checkpoint passed every check.
    #[error("loading {} failed: {reason}", file.display())]
    Loader {
        /// File or folder.
        file: PathBuf,
        /// What the loader said.
        reason: String,
    },
    /// Loading was stopped from outside.
    #[error("loading was cancelled after {bytes_done} of {bytes_total} bytes")]
    Cancelled {
        /// Bytes loaded by then.
        bytes_done: u64,
        /// Bytes to load.
        bytes_total: u64,
    },
}

/// How many names a message lists.
const LISTED: usize = 5;

struct NameDifference<'a>(&'a [String], &'a [String]);

impl fmt::Display for NameDifference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (names, one, many) in [
            (self.0, "parameter is missing", "parameters are missing"),
            (self.1, "tensor has no place in it", "tensors have no place in it"),
        ] {
            if names.is_empty() {
                continue;
            }
            let listed = names[..names.len().min(LISTED)].join(", ");
            let more = if names.len() > LISTED { ", …" } else { "" };
            write!(f, "{separator}{} {} ({listed}{more})", names.len(), if names.len() == 1 { one } else { many })?;
            separator = "; ";
        }
        Ok(())
    }
}

fn and_more(more: usize) -> String {
    if more == 0 { String::new() } else { format!(" (and {more} more like it)") }
}

fn whereabouts(expected: Option<&str>, found: Option<&str>) -> String {
    match (expected, found) {
        (Some(expected), Some(found)) => format!("listed for {expected}, but is in {found}"),
        (Some(expected), None) => format!("listed for {expected}, which lacks it"),
        (None, Some(found)) => format!("not listed, but is in {found}"),
        (None, None) => "nowhere".to_string(),
    }
}
