//! A measured case as a line of JSON has it, and the files of such lines.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use llama4::quant::Packing;
use serde::{Deserialize, Serialize};

use crate::case::Case;
use crate::cost::Cost;
use crate::harness::quantile;
use crate::limits::Limits;
use crate::machine::Machine;

/// Version of the lines. It grows when a field changes its meaning or goes; a new one may come without.
pub(crate) const SCHEMA: u32 = 1;

/// One measured case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// [`SCHEMA`].
    pub(crate) schema: u32,
    /// When it was measured, RFC 3339.
    pub(crate) date: String,
    /// Revision of the source, where git knows it.
    pub(crate) commit: Option<String>,
    pub(crate) machine: Machine,
    /// What computed.
    pub(crate) backend: String,
    pub(crate) model: Model,
    /// The case in words, by which runs are compared.
    pub(crate) name: String,
    pub(crate) case: Case,
    /// What the rates count: tokens, calls or gigabytes a second.
    pub(crate) unit: String,
    /// Rate of the median repeat.
    pub(crate) median: f64,
    /// Rate that a tenth of the repeats stay below.
    pub(crate) p10: f64,
    /// Rate that nine tenths of the repeats stay below.
    pub(crate) p90: f64,
    /// Units of work in a repeat.
    pub(crate) work: f64,
    /// Seconds of each measured repeat.
    pub(crate) seconds: Vec<f64>,
    /// Seconds of the repeat before those.
    pub(crate) warm_up_seconds: f64,
    /// What a repeat must cost; absent for loading.
    pub(crate) cost: Option<Cost>,
    pub(crate) limits: Limits,
    /// Which part of the limits was used, at the median.
    pub(crate) share: Option<Share>,
    pub(crate) memory: Memory,
    /// llama.cpp on the same case.
    pub(crate) peer: Option<Peer>,
}

/// What was run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Model {
    /// Name of the shape, or the checkpoint's path.
    pub(crate) name: String,
    pub(crate) layers: usize,
    pub(crate) parameters: u64,
    /// Type of activations and of weights that are not packed.
    pub(crate) dtype: String,
    pub(crate) quantization: Option<Packings>,
    /// Seed of random weights; absent for a checkpoint.
    pub(crate) seed: Option<u64>,
}

/// How weights are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Packings {
    pub(crate) weights: Packing,
    pub(crate) head: Packing,
    pub(crate) embedding: Packing,
}

/// Parts of the measured limits, from 0 to 1 (a cache, or a measurement at a bad moment, can take one above).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(crate) read: f64,
    pub(crate) compute: f64,
}

/// The most memory, in bytes: of the host while the model was made and in the case itself, of the device up to the end of the case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) host_peak: Option<u64>,
    /// Absent where the device's memory is the host's.
    pub(crate) device_peak: Option<u64>,
}

/// Another program on the same case, in alternation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Peer {
    /// Its name and build.
    pub(crate) program: String,
    /// What it says of its model.
    pub(crate) model: String,
    /// Rate of each repeat, in the record's unit.
    pub(crate) rates: Vec<f64>,
    pub(crate) median: f64,
    /// Our median in theirs.
    pub(crate) ratio: f64,
    /// The most memory of the host that any of its repeats took, loading included.
    #[serde(default)]
    pub(crate) host_peak: Option<u64>,
    /// Our most in theirs; absent where the device has memory of its own.
    #[serde(default)]
    pub(crate) memory_ratio: Option<f64>,
}

impl Peer {
    /// The rate that `share` of its repeats stay below.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        quantile(&self.rates, share)
    }
}

impl Packings {
    /// `q4`, or `q4 head q8 embedding bf16` where they differ.
    pub(crate) fn words(self) -> String {
        let mut words = self.weights.to_string();
        if self.head != self.weights {
            words += &format!(" head {}", self.head);
        }
        if self.embedding != self.weights {
            words += &format!(" embedding {}", self.embedding);
        }
        words
    }
}

impl Model {
    /// By which runs are compared: the shape, however it is held.
    pub(crate) fn shape(&self) -> String {
        format!("{}, {} layers", self.name, self.layers)
    }

    /// How it is held.
    pub(crate) fn form(&self) -> String {
        match self.quantization {
            None => self.dtype.clone(),
            Some(packings) => format!("{} in {}", packings.words(), self.dtype),
        }
    }
}

/// Lines of JSON, written one by one so that a run that is cut off leaves what it has.
#[derive(Debug)]
pub(crate) struct Lines {
    path: PathBuf,
    file: File,
}

impl Lines {
    /// Open a file to append to.
    pub(crate) fn append(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    pub(crate) fn push(&mut self, record: &Record) -> Result<()> {
        let line = serde_json::to_string(record)? + "\n";
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.flush());
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// All records of a file.
///
/// # Errors
/// When it cannot be read, has none, or a line is none of ours; the error names file and line.
pub(crate) fn read(path: &Path) -> Result<Vec<Record>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut records = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = || format!("{}, line {}", path.display(), number + 1);
        records.push(parse(line).with_context(place)?);
    }
    if records.is_empty() {
        bail!("{} has no measurement", path.display());
    }
    Ok(records)
}

fn parse(line: &str) -> Result<Record> {
    #[derive(Deserialize)]
    struct Version {
        schema: u32,
    }
    let Version { schema } = serde_json::from_str(line).context("not a record of llama4-bench")?;
    if schema != SCHEMA {
        bail!("a record of schema {schema}; this program reads schema {SCHEMA}");
    }
    serde_json::from_str(line).context("not a record of llama4-bench")
}

/// A record for tests.
#[cfg(test)]
pub(crate) fn example(backend: &str, case: Case, median: f64) -> Record {
    Record {
        schema: SCHEMA,
        date: "2026-11-24T12:00:00Z".into(),
        commit: Some("0123456789ab".into()),
        machine: Machine {
            cpu: "A CPU".into(),
            cores: 2,
            memory: 1 << 34,
            adapter: format!("an adapter of {backend}"),
        },
        backend: backend.into(),
        model: Model {
            name: "cpu".into(),
            layers: 4,
            parameters: 1_014_000_000,
            dtype: "f32".into(),
            quantization: None,
            seed: Some(0),
        },
        name: case.to_string(),
        case,
        unit: case.unit().into(),
        median,
        p10: median * 0.75,
        p90: median * 1.25,
        work: 32.0,
        seconds: vec![0.5; 3],
        warm_up_seconds: 1.0,
        cost: Some(Cost { bytes: 1e9, operations: 2e9 }),
        limits: Limits {
            read_bytes_per_second: 4e10,
            read_how: "sum".into(),
            operations_per_second: 1e11,
            operations_how: "product".into(),
        },
        share: Some(Share { read: 0.5, compute: 0.25 }),
        memory: Memory { host_peak: Some(1 << 30), device_peak: None },
        peer: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let written = [
            example("ndarray", Case::Prefill { tokens: 128 }, 100.0),
            example("ndarray", Case::Decode { sequences: 8, depth: 128, tokens: 32 }, 50.5),
        ];
        // Opened twice: a second run appends.
        for record in &written {
            Lines::append(&path).unwrap().push(record).unwrap();
        }
        assert_eq!(read(&path).unwrap(), written);
    }

    #[test]
    fn a_malformed_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let line = serde_json::to_string(&example("ndarray", Case::Load, 1.0)).unwrap();
        let error = |text: String| {
            fs::write(&path, text).unwrap();
            format!("{:#}", read(&path).unwrap_err())
        };
        let broken = error(format!("{line}\n\n{}\n", &line[..40]));
        assert!(broken.contains("a.jsonl, line 3"), "{broken}");
        let other = error(line.replace("\"schema\":1", "\"schema\":2"));
        assert!(other.contains("line 1") && other.contains("schema 2"), "{other}");
        let lacking = error(line.replace("\"median\"", "\"middle\""));
        assert!(lacking.contains("median"), "{lacking}");
        assert!(error(String::new()).contains("no measurement"));
    }

    #[test]
    fn forms_are_said_in_few_words() {
        let mut model = example("cuda", Case::Load, 1.0).model;
        assert_eq!(model.form(), "f32");
        model.quantization = Some(Packings { weights: Packing::Q4, head: Packing::Q8, embedding: Packing::Bf16 });
        assert_eq!(model.form(), "q4 head q8 embedding bf16 in f32");
    }
}
