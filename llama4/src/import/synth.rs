//! Random checkpoints of any size, so that what a model needs can be tried without its weights.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::DType;
use half::{bf16, f16};
use rayon::prelude::*;

use super::draw::{self, mix};
use super::names::{ExpectedTensor, expected_tensors};
use super::report::LoadProgress;
use super::shards::{self, Entry, Unit};
use super::unfinished::UnfinishedFolder;
use crate::Llama4Config;
use crate::error::ImportError;

/// Values that are drawn from one state of the generator, so that any number of cores draw the same.
const RUN: usize = 1 << 16;

/// Values that are made at once.
const PIECE: usize = 1 << 24;

/// A random checkpoint.
#[derive(Debug, Clone)]
pub struct Synth {
    /// What the model is.
    pub config: Llama4Config,
    /// Type of its values: `BF16`, `F16` or `F32`.
    pub dtype: DType,
    /// The same seed gives the same values.
    pub seed: u64,
    /// Most bytes of a file, one tensor's apart.
    pub shard_bytes: u64,
    /// Replace a folder that is there.
    pub replace: bool,
}

impl Synth {
    /// Write the checkpoint in Hugging Face's sharded form: bytes of its weights.
    ///
    /// Values are scaled so that activations stay near one through any number of layers; routing is spread over the experts.
    ///
    /// # Errors
    /// When the type is another one, the folder is there or cannot be written, or `progress` says to stop.
    pub fn write(
        &self,
        folder: &Path,
        mut progress: impl FnMut(LoadProgress<'_>) -> ControlFlow<()>,
    ) -> Result<u64, ImportError> {
        let dtype = match self.dtype {
            DType::BF16 => "BF16",
            DType::F16 => "F16",
            DType::F32 => "F32",
            other => {
                let what = format!("a checkpoint of {other:?} values");
                return Err(ImportError::Unsupported { place: folder.to_path_buf(), what });
            }
        };
        super::convert::refuse_occupied(folder, self.replace)?;
        let tensors = expected_tensors(&self.config);
        let unit =
            |tensor: &ExpectedTensor| vec![Entry { name: tensor.name.clone(), dtype, shape: tensor.shape.clone() }];
        let units: Vec<Unit> = tensors.iter().map(unit).collect();
        let bytes_total = units.iter().flatten().map(Entry::bytes).sum();
        let mut bytes_done = 0;

        let failed = |error| ImportError::Write { file: folder.to_path_buf(), error };
        let unfinished = UnfinishedFolder::create(folder).map_err(failed)?;
        let mut checksums = shards::write(unfinished.path(), &units, self.shard_bytes, |index, send| {
            let tensor = &tensors[index];
            let count: usize = tensor.shape.iter().product();
            for start in (0..count).step_by(PIECE) {
                if progress(LoadProgress { bytes_done, bytes_total, name: &tensor.name }).is_break() {
                    return Err(ImportError::Cancelled { bytes_done, bytes_total });
                }
                let bytes = self.values(index, tensor, start, PIECE.min(count - start));
                bytes_done += bytes.len() as u64;
                send(bytes)?;
            }
            Ok(())
        })?;
        let mut config = self.config.clone();
        config.norm_dtype = Some(self.dtype);
        let text = format!("{:#}\n", config.to_hf_json());
        checksums.push(shards::write_text(unfinished.path(), "config.json", text.as_bytes())?);
        shards::write_checksums(unfinished.path(), &checksums)?;
        unfinished.finish(self.replace).map_err(failed)?;
        // The last report, when nothing can stop it any more.
        let _ = progress(LoadProgress { bytes_done: bytes_total, bytes_total, name: "" });
        Ok(bytes_total)
    }

    /// Some values of a tensor as the file's bytes; `start` is a multiple of [`RUN`].
    fn values(&self, index: usize, tensor: &ExpectedTensor, start: usize, count: usize) -> Vec<u8> {
        let deviation = draw::deviation(&self.config, tensor);
        let runs: Vec<usize> = (start..start + count).step_by(RUN).collect();
        let parts = runs.par_iter().map(|&first| {
            let len = RUN.min(start + count - first);
            let Some(deviation) = deviation else { return encode(std::iter::repeat_n(1.0, len), self.dtype) };
            let state = mix(mix(self.seed ^ mix(index as u64)) ^ first as u64);
            encode(draw::bells(state).map(|value| value * deviation).take(len), self.dtype)
        });
        parts.collect::<Vec<Vec<u8>>>().concat()
    }
}

fn encode(values: impl Iterator<Item = f32>, dtype: DType) -> Vec<u8> {
    match dtype {
        DType::BF16 => values.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect(),
        DType::F16 => values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect(),
        _ => values.flat_map(f32::to_le_bytes).collect(),
    }
}
