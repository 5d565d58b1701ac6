//! A checkpoint of any form becomes a folder of Hugging Face's names, packed or not, without ever being held.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use burn::tensor::DType;

use super::checkpoint::Checkpoint;
use super::encode;
use super::matrix::Matrix;
use super::names::Layout;
use super::own::VERSION;
use super::plan::{Plan, PlannedTensor};
use super::read_ahead::ReadAhead;
use super::report::{LoadProgress, WeightsForm};
use super::shards::{self, Checksum, Entry, Sink, Unit};
use super::source::ModelSource;
use super::storage::Storage;
use super::stored::StoredDtype;
use super::unfinished::UnfinishedFolder;
use crate::config::QuantConfig;
use crate::error::ImportError;
use crate::quant::{Packing, Quantization, WeightKind};

/// Values that are converted at once.
const VALUES: usize = 1 << 24;

/// Files that go along as they are, where the source has them.
const COMPANIONS: [&str; 6] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// How a checkpoint is converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvertOptions {
    /// What is packed; `None` leaves what is quantised in its nearest packing, and floats as they are.
    pub quantization: Option<Quantization>,
    /// Most bytes of a file, one parameter's apart.
    pub shard_bytes: u64,
    /// Replace a folder that is there.
    pub replace: bool,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self { quantization: None, shard_bytes: 5 << 30, replace: false }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvertReport {
    /// The form of the source.
    pub form: WeightsForm,
    /// Bytes of weights that were read.
    pub bytes_read: u64,
    /// Bytes of all files that were written.
    pub bytes_written: u64,
    /// Files that were written.
    pub files: usize,
    /// Parameters by how they are stored now.
    pub dtypes: BTreeMap<StoredDtype, usize>,
    /// Weights that should have been packed and stayed floats, because their rows are not whole blocks.
    pub kept_float: Vec<String>,
    /// Parameters that were quantised before in another way, and are now in the nearest of ours: not without loss.
    pub requantised: BTreeMap<StoredDtype, usize>,
    /// From the first header to the last name.
    pub elapsed: Duration,
}

/// How a parameter is written.
enum Output {
    Packed(Packing),
    Floats(StoredDtype),
}

impl Checkpoint {
    /// Write the checkpoint to a folder of its own: `config.json`, what belongs to its text, the weights in sharded safetensors under Hugging
    /// Face's names (packed ones as `.qweight` and `.scales`), and a checksum of every file. It loads without any conversion.
    ///
    /// Weights pass through in pieces; neither the source nor the result is ever held. The folder appears whole or not at all.
    ///
    /// # Errors
    /// As [`load`](Self::load); and when the folder is there, cannot be written, or `progress` says to stop.
    pub fn convert(
        &self,
        options: &ConvertOptions,
        folder: &Path,
        mut progress: impl FnMut(LoadProgress<'_>) -> ControlFlow<()>,
    ) -> Result<ConvertReport, ImportError> {
        let started = Instant::now();
        if self.form == WeightsForm::BurnRecord {
            let what = "a burn record, which has no header,".to_string();
            return Err(ImportError::Unsupported { place: self.file.clone(), what });
        }
        refuse_occupied(folder, options.replace)?;
        let plan = self.plan()?;
        // A backend whose floats are `F32`, so that 16 bits count as a packing of their own.
        let storage =
            Storage { dtype: DType::F32, quantization: options.quantization, own: self.own_layout()?.cloned() };
        let outputs: Vec<Output> = plan.tensors.iter().map(|tensor| output(tensor, &storage)).collect();
        let units: Vec<Unit> = plan.tensors.iter().zip(&outputs).map(|(tensor, output)| unit(tensor, output)).collect();

        let failed = |error| ImportError::Write { file: folder.to_path_buf(), error };
        let unfinished = UnfinishedFolder::create(folder).map_err(failed)?;
        let mut checksums = self.write_weights(&plan, &outputs, &units, options, unfinished.path(), &mut progress)?;
        checksums.extend(self.write_texts(&plan, &storage, unfinished.path())?);
        checksums.sort_by(|a, b| a.name.cmp(&b.name));
        shards::write_checksums(unfinished.path(), &checksums)?;
        let bytes_written = folder_bytes(unfinished.path()).map_err(failed)?;
        unfinished.finish(options.replace).map_err(failed)?;

        let mut dtypes = BTreeMap::new();
        for output in &outputs {
            let dtype = match output {
                Output::Packed(packing) => StoredDtype::Packed(*packing),
                Output::Floats(dtype) => dtype.clone(),
            };
            *dtypes.entry(dtype).or_insert(0) += 1;
        }
        Ok(ConvertReport {
            form: self.form,
            bytes_read: plan.bytes(),
            bytes_written,
            files: checksums.len() + 1,
            dtypes,
            kept_float: storage.kept_float(&plan),
            requantised: storage.requantised(&plan),
            elapsed: started.elapsed(),
        })
    }

    fn write_weights(
        &self,
        plan: &Plan,
        outputs: &[Output],
        units: &[Unit],
        options: &ConvertOptions,
        folder: &Path,
        progress: &mut dyn FnMut(LoadProgress<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Checksum>, ImportError> {
        let bytes_total = plan.bytes();
        let ahead = ReadAhead::default();
        thread::scope(|scope| {
            let _stop = ahead.stop_when_dropped();
            scope.spawn(|| ahead.run(plan.tensors.iter().flat_map(|tensor| &tensor.matrices).enumerate()));
            let mut bytes_done = 0;
            let mut matrices_done = 0;
            let checksums = shards::write(folder, units, options.shard_bytes, |index, send| {
                let tensor = &plan.tensors[index];
                let name = &tensor.expected.name;
                let each = tensor.bytes / tensor.matrices.len() as u64;
                let mut scales = Vec::new();
                for matrix in &tensor.matrices {
                    ahead.reached(matrices_done);
                    let output = &outputs[index];
                    for piece in pieces(tensor, matrix, output) {
                        if progress(LoadProgress { bytes_done, bytes_total, name }).is_break() {
                            return Err(ImportError::Cancelled { bytes_done, bytes_total });
                        }
                        let share = each * piece.len() as u64 / across(tensor, matrix, output) as u64;
                        match output {
                            Output::Packed(packing) => send_packed(tensor, matrix, piece, *packing, &mut scales, send)?,
                            Output::Floats(dtype) if tensor.expected.layout == Layout::TurnedExperts => {
                                send(encode::turned_bytes(matrix, piece, dtype))?;
                            }
                            Output::Floats(dtype) => send(encode::bytes(matrix, piece, dtype))?,
                        }
                        bytes_done += share;
                    }
                    matrices_done += 1;
                }
                if scales.is_empty() { Ok(()) } else { send(scales) }
            })?;
            // The last report, whatever rounding has left.
            let last = LoadProgress { bytes_done: bytes_total, bytes_total, name: "" };
            match progress(last) {
                ControlFlow::Continue(()) => Ok(checksums),
                ControlFlow::Break(()) => Err(ImportError::Cancelled { bytes_done: bytes_total, bytes_total }),
            }
        })
    }

    /// `config.json` and what belongs to the text.
    fn write_texts(&self, plan: &Plan, storage: &Storage, folder: &Path) -> Result<Vec<Checksum>, ImportError> {
        let mut config = self.config.clone();
        config.norm_dtype = plan.norm_dtype();
        config.quant_config = packed_kinds(plan, storage);
        let text = format!("{:#}\n", config.to_hf_json());
        let mut written = vec![shards::write_text(folder, "config.json", text.as_bytes())?];
        for name in COMPANIONS {
            if let Some(text) = self.companion(name)? {
                written.push(shards::write_text(folder, name, &text)?);
            }
        }
        Ok(written)
    }

    /// A file that belongs to the checkpoint beside its weights, or is part of them.
    fn companion(&self, name: &str) -> Result<Option<Vec<u8>>, ImportError> {
        if let Some(file) = self.folder().map(|folder| folder.join(name))
            && file.is_file()
        {
            return std::fs::read(&file).map(Some).map_err(|error| ImportError::Read { file, error });
        }
        Ok(match (name, &self.source) {
            ("tokenizer.json", _) => self.tokenizer_json()?,
            ("chat_template.jinja", _) => self.chat_template_text()?.map(String::into_bytes),
            ("generation_config.json", ModelSource::Embedded(files)) => {
                files.generation_config_json.map(<[u8]>::to_vec)
            }
            _ => None,
        })
    }
}

fn output(tensor: &PlannedTensor, storage: &Storage) -> Output {
    match storage.packing(tensor) {
        // 16-bit floats are an ordinary tensor in a file.
        Some(Packing::Bf16) => Output::Floats(StoredDtype::Bf16),
        Some(Packing::F16) => Output::Floats(StoredDtype::F16),
        Some(packing) => Output::Packed(packing),
        None => Output::Floats(match &tensor.dtype {
            dtype @ (StoredDtype::Bf16 | StoredDtype::F16 | StoredDtype::F32) => dtype.clone(),
            StoredDtype::F8E4m3 => StoredDtype::Bf16,
            _ => StoredDtype::F32,
        }),
    }
}

/// The tensors that a parameter becomes.
fn unit(tensor: &PlannedTensor, output: &Output) -> Unit {
    let expected = &tensor.expected;
    match output {
        Output::Floats(dtype) => {
            let dtype = match dtype {
                StoredDtype::Bf16 => "BF16",
                StoredDtype::F16 => "F16",
                _ => "F32",
            };
            vec![Entry { name: expected.name.clone(), dtype, shape: expected.shape.clone() }]
        }
        Output::Packed(packing) => {
            let [count, output, input] = expected.matrices();
            let shape =
                |width| if expected.shape.len() == 3 { vec![count, output, width] } else { vec![output, width] };
            let module = expected.name.strip_suffix(".weight").unwrap_or(&expected.name);
            vec![
                Entry { name: format!("{module}.qweight"), dtype: "I32", shape: shape(packing.words(input)) },
                Entry { name: format!("{module}.scales"), dtype: "F16", shape: shape(packing.scales(input)) },
            ]
        }
    }
}

/// How many lines a matrix is cut along: rows, but columns where it is turned back to the file's order.
fn across(tensor: &PlannedTensor, matrix: &Matrix, output: &Output) -> usize {
    match output {
        Output::Floats(_) if tensor.expected.layout == Layout::TurnedExperts => matrix.columns(),
        _ => matrix.rows(),
    }
}

fn pieces(tensor: &PlannedTensor, matrix: &Matrix, output: &Output) -> impl Iterator<Item = Range<usize>> + use<> {
    let lines = across(tensor, matrix, output);
    let width = matrix.rows() * matrix.columns() / lines.max(1);
    // Bands of many rows are what turned matrices are read in.
    let piece = (VALUES / width.max(1)).max(1).next_multiple_of(128);
    (0..lines).step_by(piece).map(move |start| start..(start + piece).min(lines))
}

/// Send the words of rows; their scales are kept, for they follow all words.
fn send_packed(
    tensor: &PlannedTensor,
    matrix: &Matrix,
    rows: Range<usize>,
    packing: Packing,
    scales: &mut Vec<u8>,
    send: &mut Sink,
) -> Result<(), ImportError> {
    let columns = matrix.columns();
    let mut words = vec![0_u32; rows.len() * packing.words(columns)];
    let mut held = vec![0_u16; rows.len() * packing.scales(columns)];
    encode::pack_rows(matrix, rows, packing, &mut words, &mut held, packing.scales(columns)).map_err(|_| {
        let (name, file) = (tensor.expected.name.clone(), tensor.file.to_path_buf());
        ImportError::NotRepresentable { name, packing, file }
    })?;
    scales.extend(held.iter().flat_map(|scale| scale.to_le_bytes()));
    send(words.iter().flat_map(|word| word.to_le_bytes()).collect())
}

/// What is packed, for `config.json`; `None` where nothing is but 16-bit floats.
fn packed_kinds(plan: &Plan, storage: &Storage) -> Option<QuantConfig> {
    let mut found = QuantConfig {
        method: Some(QuantConfig::OWN_METHOD.to_string()),
        version: Some(VERSION),
        ..QuantConfig::default()
    };
    let mut any = false;
    for tensor in &plan.tensors {
        let packing = storage.packing(tensor);
        any |= packing.is_some_and(Packing::has_scales);
        match tensor.expected.kind {
            WeightKind::Embedding => found.embedding = packing,
            WeightKind::Head => found.head = packing,
            _ => found.bits = found.bits.or(packing.map(Packing::bits)),
        }
    }
    any.then_some(found)
}

/// A folder that is to be written must not be there, or be empty, or be meant to be replaced.
pub(super) fn refuse_occupied(folder: &Path, replace: bool) -> Result<(), ImportError> {
    let occupied = folder.exists() && std::fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_some());
    if occupied && !replace { Err(ImportError::Occupied { folder: folder.to_path_buf() }) } else { Ok(()) }
}

fn folder_bytes(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}
