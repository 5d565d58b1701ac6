//! A checkpoint on disk becomes a model: [`Checkpoint::open`], [`Checkpoint::load`], or [`load`] for both.
//!
//! Loading is strict. Headers are read first and compared with the model's own list of parameters; a tensor that is missing, left over,
//! misshapen or of a type that cannot be loaded is an error that names it and its file, before any weight is read. Vision tensors of
//! multimodal checkpoints are skipped by prefix and counted.
//!
//! A configuration that says the head is not tied to the embedding needs an `lm_head.weight`: that the file lacks it is an
//! error here, where Modular MAX ties the two in silence.

mod archive;
mod blob;
mod checkpoint;
mod convert;
mod draw;
mod encode;
mod experts;
mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod gguf;
mod header;
mod index;
mod load;
mod lora;
mod mapped;
mod matrix;
mod meta;
mod most_values;
mod names;
mod own;
mod path;
mod pickle;
mod plan;
mod pytorch;
mod random_weights;
mod read_ahead;
mod recorders;
mod records;
mod report;
mod resolve;
mod save;
mod shards;
mod snapshots;
mod source;
mod storage;
mod stored;
mod synth;
mod synthetic;
mod unfinished;
mod write;

use std::ops::ControlFlow;

use burn::tensor::backend::Backend;

use crate::error::ImportError;

pub use checkpoint::Checkpoint;
pub use convert::{ConvertOptions, ConvertReport};
pub use load::{LoadOptions, Loaded, Loader};
pub use lora::{load_lora, save_lora};
pub use names::{ExpectedTensor, Layout, expected_tensors};
pub use random_weights::RandomWeights;
pub use records::{RecordPrecision, save_record};
pub use report::{LoadProgress, LoadReport, WeightsForm};
pub use save::save_hf;
pub use source::{EmbeddedModel, ModelSource};
pub use stored::StoredDtype;
pub use synth::Synth;
pub use synthetic::SyntheticOptions;

/// Open a checkpoint and load it: [`Checkpoint::open`] and [`Checkpoint::load`].
///
/// # Errors
/// As those two.
pub fn load<B: Backend>(
    source: impl Into<ModelSource>,
    options: &LoadOptions,
    device: &B::Device,
    progress: impl FnMut(LoadProgress<'_>) -> ControlFlow<()>,
) -> Result<Loaded<B>, ImportError> {
    Checkpoint::open(source)?.load(options, device, progress)
}

#[cfg(test)]
mod tests;
