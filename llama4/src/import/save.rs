use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use burn::tensor::backend::Backend;
use burn::tensor::{DType, TensorData};
use burn_store::{ModuleSnapshot, TensorSnapshot};
use half::{bf16, f16};
use serde_json::{Map, Value, json};

use super::experts;
use super::names::{ExpectedTensor, Layout, expected_tensors};
use super::write::write_file;
use crate::error::ImportError;
use crate::nn::Llama4ForCausalLM;

/// Save a model as a checkpoint in Hugging Face's format: `config.json` and `model.safetensors`, names and orientation as there
/// (experts turned back to `[experts, in, out]`), values as `dtype` (`BF16`, `F16` or `F32`).
///
/// Each file appears whole or not at all, `config.json` last, so that a new folder which was not finished is no checkpoint. What
/// belongs to the text (`tokenizer.json`, `generation_config.json`) is for the caller to put beside them.
///
/// # Errors
/// When the type is another one or cannot hold a value, or a file cannot be written.
pub fn save_hf<B: Backend>(model: &Llama4ForCausalLM<B>, dir: &Path, dtype: DType) -> Result<(), ImportError> {
    let file = dir.join("model.safetensors");
    refuse_unfit(model, &file)?;
    let (name, width) = match dtype {
        DType::BF16 => ("BF16", 2),
        DType::F16 => ("F16", 2),
        DType::F32 => ("F32", 4),
        other => {
            let what = format!("a model of {other:?} values");
            return Err(ImportError::Unsupported { place: file, what });
        }
    };
    let config = model.config();
    let tensors = expected_tensors(config);
    // Snapshots are lazy: one tensor is on the host at a time.
    let parts: HashMap<String, TensorSnapshot> =
        model.collect(None, None, true).into_iter().map(|part| (part.full_path(), part)).collect();

    let mut problem = None;
    let written = write_file(&file, |out| {
        let entries = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice()));
        out.write_all(&header(entries, name, width))?;
        for tensor in &tensors {
            if let Err(error) = write_tensor(tensor, &parts, dtype, &file, out) {
                return Err(match error {
                    ImportError::Write { error, .. } => error,
                    other => {
                        problem = Some(other);
                        std::io::Error::other("a tensor cannot be saved")
                    }
                });
            }
        }
        Ok(())
    });
    if let Some(problem) = problem {
        return Err(problem);
    }
    written?;

    save_config(model, dir, Some(dtype))
}

/// Packed weights are not turned back into floats that they never were, and adapters have no place among a model's own weights.
pub(super) fn refuse_unfit<B: Backend>(model: &Llama4ForCausalLM<B>, file: &Path) -> Result<(), ImportError> {
    if model.lora().is_some() {
        return Err(ImportError::SaveAdapted { file: file.to_path_buf() });
    }
    match model.packed_weights() {
        0 => Ok(()),
        packed => Err(ImportError::SavePacked { file: file.to_path_buf(), packed }),
    }
}

/// Write a model's `config.json`. `dtype` is that of the weights beside it.
pub(super) fn save_config<B: Backend>(
    model: &Llama4ForCausalLM<B>,
    dir: &Path,
    dtype: Option<DType>,
) -> Result<(), ImportError> {
    let mut config = model.config().clone();
    config.norm_dtype = dtype;
    config.quant_config = None;
    let text = format!("{:#}\n", config.to_hf_json());
    write_file(&dir.join("config.json"), |out| out.write_all(text.as_bytes()))
}

/// A safetensors header, with its length in front, padded so that the data begins at a multiple of eight.
pub(super) fn header<'a>(tensors: impl Iterator<Item = (&'a str, &'a [usize])>, dtype: &str, width: usize) -> Vec<u8> {
    let mut entries = Map::new();
    entries.insert("__metadata__".to_string(), json!({ "format": "pt" }));
    let mut start = 0;
    for (name, shape) in tensors {
        let end = start + shape.iter().product::<usize>() * width;
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] });
        entries.insert(name.to_string(), entry);
        start = end;
    }
    let mut text = Value::Object(entries).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.append(&mut text);
    header
}

fn write_tensor(
    tensor: &ExpectedTensor,
    parts: &HashMap<String, TensorSnapshot>,
    dtype: DType,
    file: &Path,
    out: &mut dyn Write,
) -> Result<(), ImportError> {
    let data = |path: &str| -> Result<Option<TensorData>, ImportError> {
        let Some(part) = parts.get(path) else { return Ok(None) };
        let failed = |reason| ImportError::Loader { file: file.to_path_buf(), reason };
        part.to_data().map(Some).map_err(|error| failed(format!("{path}: {error}")))
    };
    let mut write = |data: TensorData, matrix: Option<(usize, usize)>| -> Result<(), ImportError> {
        let values: Vec<f32> = data.iter::<f32>().collect();
        let bytes = encode(&values, dtype, matrix)
            .ok_or_else(|| ImportError::Overflow { name: tensor.name.clone(), file: file.to_path_buf() })?;
        out.write_all(&bytes).map_err(|error| ImportError::Write { file: file.to_path_buf(), error })
    };
    let lost =
        || ImportError::Names { place: file.to_path_buf(), missing: vec![tensor.name.clone()], unexpected: Vec::new() };
    let mut in_parts = |path: &dyn Fn(usize) -> String, matrix| {
        let mut part = 0;
        while let Some(data) = data(&path(part))? {
            write(data, matrix)?;
            part += 1;
        }
        if part == 0 { Err(lost()) } else { Ok(()) }
    };
    match tensor.layout {
        Layout::Same => match data(&tensor.name)? {
            Some(whole) => write(whole, None),
            None => in_parts(&|part| format!("{}.{part}", tensor.name), None),
        },
        Layout::TurnedExperts => {
            in_parts(&|group| experts::path(&tensor.name, group), Some((tensor.shape[2], tensor.shape[1])))
        }
    }
}

/// Values as bytes of `dtype`; matrices of the given rows and columns are transposed. `None` if a finite value would become infinite.
pub(super) fn encode(values: &[f32], dtype: DType, matrix: Option<(usize, usize)>) -> Option<Vec<u8>> {
    let (rows, columns) = matrix.unwrap_or((1, values.len()));
    let in_order = values.chunks(rows * columns).flat_map(|matrix| {
        (0..columns).flat_map(move |column| (0..rows).map(move |row| matrix[row * columns + column]))
    });
    let mut bytes = Vec::with_capacity(values.len() * if dtype == DType::F32 { 4 } else { 2 });
    for value in in_order {
        match dtype {
            DType::BF16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
            DType::F16 => {
                let half = f16::from_f32(value);
                if half.is_infinite() && value.is_finite() {
                    return None;
                }
                bytes.extend(half.to_le_bytes());
            }
            _ => bytes.extend(value.to_le_bytes()),
        }
    }
    Some(bytes)
}
