//! Adapters as files, in PEFT's format: a folder with `adapter_config.json` and `adapter_model.safetensors`.

mod config;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Element, Tensor, TensorData};

use super::blob::Blob;
use super::encode::{self, EncodeError};
use super::header;
use super::matrix::{Matrix, Strided};
use super::names::{is_vision, text_name};
use super::save::{encode as encode_values, header as write_header};
use super::stored::StoredTensor;
use super::write::write_file;
use crate::error::{ImportError, LoraError};
use crate::nn::Llama4ForCausalLM;
use crate::ops::shared;

/// What PEFT puts in front of the names of the model that it wraps.
const PREFIX: &str = "base_model.model.";
const WEIGHTS: &str = "adapter_model.safetensors";
const CONFIG: &str = "adapter_config.json";

/// Save a model's adapters, without the model, so that PEFT and [`load_lora`] read them: `adapter_model.safetensors` in `F32`, and
/// `adapter_config.json`, which names `base_model`, the model (a folder, or a name on a hub) that they belong to.
///
/// Each file appears whole or not at all, the configuration last.
///
/// # Errors
/// When the model has no adapters, or a file cannot be written.
pub fn save_lora<B: Backend>(
    model: &Llama4ForCausalLM<B>,
    dir: &Path,
    base_model: Option<&str>,
) -> Result<(), ImportError> {
    let Some(config) = model.lora() else { return Err(LoraError::NotAdapted.into()) };
    // A clone shares its tensors.
    let mut model = model.clone();
    let mut tensors: Vec<(String, TensorData)> = Vec::new();
    for (name, adapter) in model.lora_adapters() {
        tensors.push((file_name(&name, 'A'), adapter.a().into_data()));
        tensors.push((file_name(&name, 'B'), adapter.b().into_data()));
    }
    let entries = tensors.iter().map(|(name, data)| (name.as_str(), data.shape.as_slice()));
    let header = write_header(entries, "F32", 4);
    write_file(&dir.join(WEIGHTS), |out| {
        out.write_all(&header)?;
        for (_, data) in &tensors {
            let values: Vec<f32> = data.iter().collect();
            // Every `f32` is one.
            out.write_all(&encode_values(&values, DType::F32, None).unwrap_or_default())?;
        }
        Ok(())
    })?;
    let text = format!("{:#}\n", config::write(config, base_model));
    write_file(&dir.join(CONFIG), |out| out.write_all(text.as_bytes()))
}

/// Give a model the adapters of a folder that PEFT or [`save_lora`] wrote; as after
/// [`with_lora`](Llama4ForCausalLM::with_lora), they can be trained further and nothing else can.
///
/// Loading is strict: the folder must hold A and B of every projection that its configuration names, each once, of the right shape and
/// of a float type, and nothing else; adapters of the vision half, which this library does not have, are skipped. Names may have the
/// prefix of a multimodal model, in either order, and may lack PEFT's.
///
/// # Errors
/// When that is not so, the configuration asks for something that is not supported (which it names), or the model has adapters.
pub fn load_lora<B: Backend>(model: Llama4ForCausalLM<B>, dir: &Path) -> Result<Llama4ForCausalLM<B>, ImportError> {
    let config = config::read(&dir.join(CONFIG))?;
    let file: Arc<Path> = dir.join(WEIGHTS).into();
    let mut model = model.with_lora(&config)?;
    let device = model.device();
    let mut stored = by_place(header::read(&Blob::open(&file)?, &file)?)?;

    let mut adapters = model.lora_adapters();
    let (mut missing, mut wrong_shapes) = (Vec::new(), Vec::new());
    let mut parts = Vec::new();
    for (name, adapter) in &adapters {
        let mut take = |part: char, expected: Vec<usize>| {
            let place = place(name, part);
            let Some(tensor) = stored.remove(&place) else {
                missing.push(file_name(name, part));
                return None;
            };
            if tensor.shape != expected {
                wrong_shapes.push((tensor.name.clone(), expected, tensor.shape.clone()));
            }
            Some(tensor)
        };
        let [a, b] = adapter.shapes();
        parts.extend(take('A', a.to_vec()).zip(take('B', b.to_vec())));
    }
    if !missing.is_empty() || !stored.is_empty() {
        let mut unexpected: Vec<String> = stored.into_values().map(|tensor| tensor.name.clone()).collect();
        unexpected.sort();
        return Err(ImportError::Names { place: file.to_path_buf(), missing, unexpected });
    }
    if let Some((name, expected, found)) = wrong_shapes.first().cloned() {
        let more = wrong_shapes.len() - 1;
        return Err(ImportError::Shape { name, expected, found, file: file.to_path_buf(), more });
    }
    let upload = |tensor: &Arc<StoredTensor>| -> Result<Tensor<B, 2>, ImportError> {
        let data = floats(tensor, B::FloatElem::dtype())?;
        Ok(shared(Tensor::from_data_dtype(data, &device, B::FloatElem::dtype())))
    };
    for ((_, adapter), (a, b)) in adapters.iter_mut().zip(&parts) {
        adapter.fill(upload(a)?, upload(b)?);
    }
    drop(adapters);
    tracing::info!(place = %dir.display(), rank = config.rank, parameters = model.lora_parameters(), "adapters loaded");
    Ok(model)
}

/// A tensor of an adapter, as PEFT names it.
fn file_name(projection: &str, part: char) -> String {
    format!("{PREFIX}{}", place(projection, part))
}

fn place(projection: &str, part: char) -> String {
    format!("{projection}.lora_{part}.weight")
}

/// The tensors by what they are in the model, those of the vision half left out.
fn by_place(tensors: Vec<StoredTensor>) -> Result<HashMap<String, Arc<StoredTensor>>, ImportError> {
    let mut places: HashMap<String, Arc<StoredTensor>> = HashMap::new();
    let mut vision = 0;
    for tensor in tensors {
        let name = tensor.name.strip_prefix(PREFIX).unwrap_or(&tensor.name);
        if is_vision(name) {
            vision += 1;
            continue;
        }
        let place = text_name(name);
        if let Some(other) = places.get(&place) {
            let whereabouts = |tensor: &StoredTensor| (tensor.name.clone(), tensor.file.to_path_buf());
            return Err(ImportError::Twice { name: place, first: whereabouts(other), second: whereabouts(&tensor) });
        }
        places.insert(place, Arc::new(tensor));
    }
    if vision > 0 {
        tracing::debug!(vision, "tensors that adapt the vision half are skipped");
    }
    Ok(places)
}

/// A stored tensor's values, of its two axes.
fn floats(tensor: &Arc<StoredTensor>, dtype: DType) -> Result<TensorData, ImportError> {
    let [rows, columns] = [tensor.shape[0], tensor.shape[1]];
    let file = || tensor.file.to_path_buf();
    let unreadable =
        || ImportError::Dtype { name: tensor.name.clone(), found: tensor.dtype.clone(), file: file(), more: 0 };
    // 8-bit floats without scales mean nothing.
    if tensor.dtype.float_bytes().is_none_or(|bytes| bytes < 2) {
        return Err(unreadable());
    }
    let values = Strided::new(tensor, 0, [rows, columns], [columns, 1]).ok_or_else(unreadable)?;
    encode::floats(&[Matrix::Floats(values)], dtype, tensor.shape.clone()).map_err(|error| match error {
        EncodeError::NotRepresentable => ImportError::Overflow { name: tensor.name.clone(), file: file() },
        EncodeError::Unsupported => {
            ImportError::Loader { file: file(), reason: format!("{dtype:?} is no type of floats") }
        }
    })
}
