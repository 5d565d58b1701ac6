use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::stored::StoredDtype;

/// The form that a checkpoint's weights have on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightsForm {
    /// `model.safetensors`.
    Safetensors,
    /// `model.safetensors.index.json` and the files it names.
    ShardedSafetensors,
    /// One PyTorch file with Hugging Face's names.
    PyTorch,
    /// `pytorch_model.bin.index.json` and the files it names.
    ShardedPyTorch,
    /// Meta's own layout: `consolidated.NN.pth`, a PyTorch file for each rank, and `params.json`.
    MetaRanks,
    /// Burn's own record, `model.mpk` or `model.bin`.
    BurnRecord,
    /// llama.cpp's format, one file or several parts.
    Gguf,
    /// A safetensors file that is part of the program.
    Embedded,
}

impl fmt::Display for WeightsForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::ShardedSafetensors => "sharded safetensors",
            Self::PyTorch => "PyTorch",
            Self::ShardedPyTorch => "sharded PyTorch",
            Self::MetaRanks => "Meta's ranks",
            Self::BurnRecord => "burn record",
            Self::Gguf => "GGUF",
            Self::Embedded => "embedded safetensors",
        })
    }
}

/// What was read, and what was not.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadReport {
    /// The form that the weights had.
    pub form: WeightsForm,
    /// Tensors that were loaded; each of them is one parameter of the model (or a layer's stacked experts).
    pub tensors: usize,
    /// Their bytes on disk.
    pub bytes: u64,
    /// Tensors of the vision half, which were skipped.
    pub skipped_vision: usize,
    /// Loaded parameters by their type on disk; empty for burn's records.
    pub dtypes: BTreeMap<StoredDtype, usize>,
    /// Weights that should have been packed and stayed floats, because their rows are not whole blocks.
    pub kept_float: Vec<String>,
    /// Weights that were quantised in another way, by how, and are in the nearest packing now: not without loss.
    pub requantised: BTreeMap<StoredDtype, usize>,
    /// Time from the first header to the last tensor.
    pub elapsed: Duration,
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dtypes: Vec<String> = self.dtypes.iter().map(|(dtype, count)| format!("{count} {dtype}")).collect();
        let dtypes = if dtypes.is_empty() { String::new() } else { format!(" ({})", dtypes.join(", ")) };
        write!(
            f,
            "{} tensors{dtypes}, {:.1} MB of {} in {:.2} s",
            self.tensors,
            self.bytes as f64 / 1e6,
            self.form,
            self.elapsed.as_secs_f64()
        )?;
        match self.skipped_vision {
            0 => {}
            1 => write!(f, "; 1 vision tensor skipped")?,
            count => write!(f, "; {count} vision tensors skipped")?,
        }
        match self.kept_float.as_slice() {
            [] => Ok(()),
            [name] => write!(f, "; {name} stays float, its rows are not whole blocks"),
            [name, more @ ..] => {
                write!(f, "; {name} and {} more stay float, their rows are not whole blocks", more.len())
            }
        }
    }
}

/// How far loading has come. Sent before each tensor, and once at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadProgress<'a> {
    /// Bytes loaded so far, as counted on disk.
    pub bytes_done: u64,
    /// Bytes to load.
    pub bytes_total: u64,
    /// The parameter that is loaded next; empty at the end.
    pub name: &'a str,
}
