//! Burn's own record files: a model as this library holds it, experts turned and grouped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::record::{
    BinBytesRecorder, BinFileRecorder, FullPrecisionSettings, HalfPrecisionSettings, NamedMpkBytesRecorder,
    NamedMpkFileRecorder, Recorder, RecorderError,
};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Element, FloatDType, Tensor};

use burn_store::ModuleSnapshot;
use half::f16;

use super::names::expected_tensors;
use super::path::ModulePath;
use super::recorders::reason;
use super::save::{refuse_unfit, save_config};
use super::write::write_file;
use crate::Llama4Config;
use crate::error::ImportError;
use crate::nn::{FeedForwardRecord, Llama4ForCausalLM, Llama4ForCausalLMRecord, MlpRecord, ProjectionRecord};
use crate::quant::WeightRecord;

/// How precisely a record file holds a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordPrecision {
    /// `F16`, half the size.
    Half,
    /// `F32`.
    Full,
}

/// Save a model as burn's own record: named MessagePack where the name ends in `.mpk`, burn's binary format in `.bin`.
///
/// `config.json` is written beside it; a folder with both is a checkpoint if the record is called `model.mpk` or `model.bin`. Each
/// file appears whole or not at all.
///
/// # Errors
/// When the name has another ending, a value is beyond the range of [`RecordPrecision::Half`], or a file cannot be written.
pub fn save_record<B: Backend>(
    model: &Llama4ForCausalLM<B>,
    file: &Path,
    precision: RecordPrecision,
) -> Result<(), ImportError> {
    let format = Format::of(file)?;
    refuse_unfit(model, file)?;
    if model.split_weights() > 0 {
        let what = "a record of a model whose weights are split for its device (`save_hf` writes it)".to_string();
        return Err(ImportError::Unsupported { place: file.to_path_buf(), what });
    }
    if precision == RecordPrecision::Half {
        check_range(model, file)?;
    }
    let record = model.clone().into_record();
    let bytes = match (format, precision) {
        (Format::Mpk, RecordPrecision::Full) => {
            bytes(NamedMpkBytesRecorder::<FullPrecisionSettings>::default(), record)
        }
        (Format::Mpk, RecordPrecision::Half) => {
            bytes(NamedMpkBytesRecorder::<HalfPrecisionSettings>::default(), record)
        }
        (Format::Bin, RecordPrecision::Full) => bytes(BinBytesRecorder::<FullPrecisionSettings>::default(), record),
        (Format::Bin, RecordPrecision::Half) => bytes(BinBytesRecorder::<HalfPrecisionSettings>::default(), record),
    };
    // Not burn's file recorders: they overwrite in place, and do not notice when the last of the bytes cannot be written.
    let bytes = bytes.map_err(|error| ImportError::Loader { file: file.to_path_buf(), reason: reason(error) })?;
    write_file(file, |out| out.write_all(&bytes))?;
    let dtype = if precision == RecordPrecision::Half { DType::F16 } else { DType::F32 };
    save_config(model, file.parent().unwrap_or(Path::new("")), Some(dtype))
}

/// burn makes what `F16` cannot hold infinite and says nothing.
fn check_range<B: Backend>(model: &Llama4ForCausalLM<B>, file: &Path) -> Result<(), ImportError> {
    for part in model.collect(None, None, true) {
        let name = part.full_path();
        let failed = |reason: String| ImportError::Loader { file: file.to_path_buf(), reason };
        let data = part.to_data().map_err(|error| failed(format!("{name}: {error}")))?;
        if data.iter::<f32>().any(|value| value.is_finite() && f16::from_f32(value).is_infinite()) {
            return Err(ImportError::Overflow { name, file: file.to_path_buf() });
        }
    }
    Ok(())
}

fn bytes<B: Backend>(
    recorder: impl Recorder<B, RecordArgs = (), RecordOutput = Vec<u8>>,
    record: Llama4ForCausalLMRecord<B>,
) -> Result<Vec<u8>, RecorderError> {
    recorder.record(record, ())
}

/// Formats of record files.
enum Format {
    Mpk,
    Bin,
}

impl Format {
    fn of(file: &Path) -> Result<Self, ImportError> {
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("mpk") => Ok(Self::Mpk),
            Some("bin") => Ok(Self::Bin),
            _ => Err(ImportError::Unsupported {
                place: file.to_path_buf(),
                what: "a record whose name ends neither in .mpk nor in .bin".to_string(),
            }),
        }
    }
}

/// Load a record file, of whatever precision. Its tensors are compared with the model's before any is taken over: burn itself
/// panics at lists of another length and is silent about options that are there on one side only.
pub(super) fn load<B: Backend>(
    config: &Llama4Config,
    file: &Path,
    dtype: DType,
    device: &B::Device,
) -> Result<Llama4ForCausalLM<B>, ImportError> {
    let corrupt = |reason: String| ImportError::Corrupt { file: file.to_path_buf(), reason };
    let path = file.to_path_buf();
    let format = Format::of(file)?;
    // Most damage shows in the size, and burn's binary reader believes any length it reads, however much memory it takes.
    let size = std::fs::metadata(file).map_err(|error| ImportError::Read { file: path.clone(), error })?.len();
    let values: usize = expected_tensors(config).iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
    if size < 2 * values as u64 {
        return Err(corrupt(format!("its {size} bytes cannot hold the {values} values of this model")));
    }
    // Reading converts to `f32`, from either precision. burn's readers panic at some damage.
    let record = catch_unwind(AssertUnwindSafe(|| match format {
        Format::Mpk => NamedMpkFileRecorder::<FullPrecisionSettings>::default().load(path, device),
        Format::Bin => BinFileRecorder::<FullPrecisionSettings>::default().load(path, device),
    }));
    let record: Llama4ForCausalLMRecord<B> = match record {
        Ok(record) => record.map_err(|error| corrupt(format!("not a record of this model: {}", reason(error))))?,
        Err(_) => return Err(corrupt("burn's reader panicked".to_string())),
    };

    let model = config.init::<B>(device);
    let mut expected = Shapes::default();
    model.visit(&mut expected);
    compare(expected.found, record_shapes(&record), file)?;
    let model = model.load_record(record);
    Ok(if dtype == B::FloatElem::dtype() { model } else { model.map(&mut Cast(dtype.into())) })
}

/// Both lists have each name once.
fn compare(
    mut expected: Vec<(String, Vec<usize>)>,
    mut found: Vec<(String, Vec<usize>)>,
    file: &Path,
) -> Result<(), ImportError> {
    expected.sort();
    found.sort();
    let lacks =
        |list: &[(String, Vec<usize>)], name: &String| list.binary_search_by(|(other, _)| other.cmp(name)).is_err();
    let names = |a: &[(String, Vec<usize>)], b: &[(String, Vec<usize>)]| -> Vec<String> {
        a.iter().filter(|(name, _)| lacks(b, name)).map(|(name, _)| name.clone()).collect()
    };
    let (missing, unexpected) = (names(&expected, &found), names(&found, &expected));
    if !missing.is_empty() || !unexpected.is_empty() {
        return Err(ImportError::Names { place: file.to_path_buf(), missing, unexpected });
    }
    let mut wrong = expected.into_iter().zip(found).filter(|(expected, found)| expected.1 != found.1);
    match wrong.next() {
        None => Ok(()),
        Some(((name, expected), (_, found))) => {
            Err(ImportError::Shape { name, expected, found, file: file.to_path_buf(), more: wrong.count() })
        }
    }
}

/// Names and shapes of a model's parameters, without drawing any.
#[derive(Default)]
struct Shapes {
    path: ModulePath,
    found: Vec<(String, Vec<usize>)>,
}

impl<B: Backend> ModuleVisitor<B> for Shapes {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        self.found.push((self.path.name(), param.lazy_shape().dims));
    }
}

struct Cast(FloatDType);

impl<B: Backend> ModuleMapper<B> for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        param.map(|tensor| tensor.cast(self.0))
    }
}

/// Names and shapes of what a record holds, by the model's names.
fn record_shapes<B: Backend>(record: &Llama4ForCausalLMRecord<B>) -> Vec<(String, Vec<usize>)> {
    let mut list = List(Vec::new());
    list.weight("model.embed_tokens.weight", &record.model.embed_tokens.weight);
    for (index, layer) in record.model.layers.iter().enumerate() {
        let name = |rest: &str| format!("model.layers.{index}.{rest}");
        list.add(&name("input_layernorm.weight"), &layer.input_layernorm.weight);
        list.projection(&name("self_attn.q_proj"), &layer.self_attn.q_proj);
        list.projection(&name("self_attn.k_proj"), &layer.self_attn.k_proj);
        list.projection(&name("self_attn.v_proj"), &layer.self_attn.v_proj);
        list.projection(&name("self_attn.o_proj"), &layer.self_attn.o_proj);
        list.add(&name("post_attention_layernorm.weight"), &layer.post_attention_layernorm.weight);
        match &layer.feed_forward {
            FeedForwardRecord::Dense(mlp) => list.mlp(&name("feed_forward"), mlp),
            FeedForwardRecord::Moe(moe) => {
                list.add(&name("feed_forward.router.weight"), &moe.router.weight);
                for (group, experts) in moe.experts.groups.iter().enumerate() {
                    let name = name(&format!("feed_forward.experts.groups.{group}"));
                    list.weight(&format!("{name}.gate_up_proj"), &experts.gate_up_proj);
                    list.weight(&format!("{name}.down_proj"), &experts.down_proj);
                }
                list.mlp(&name("feed_forward.shared_expert"), &moe.shared_expert);
            }
        }
    }
    list.add("model.norm.weight", &record.model.norm.weight);
    if let Some(head) = &record.lm_head {
        list.projection("lm_head", head);
    }
    list.0
}

struct List(Vec<(String, Vec<usize>)>);

impl List {
    fn add<B: Backend, const D: usize>(&mut self, name: &str, param: &Param<Tensor<B, D>>) {
        self.0.push((name.to_string(), param.lazy_shape().dims));
    }

    /// Packed and split ones get a name of their own, which no model that is filled from a record has.
    fn weight<B: Backend, const D: usize>(&mut self, name: &str, record: &WeightRecord<B, D>) {
        match record {
            WeightRecord::Float(param) => self.add(name, param),
            WeightRecord::Packed(_) => self.0.push((format!("{name} (packed)"), Vec::new())),
            WeightRecord::Split(_) => self.0.push((format!("{name} (split)"), Vec::new())),
        }
    }

    /// Adapters get a name that no model has, as packed weights do.
    fn projection<B: Backend>(&mut self, name: &str, record: &ProjectionRecord<B>) {
        if record.lora.is_some() {
            self.0.push((format!("{name} (adapter)"), Vec::new()));
        }
        self.weight(&format!("{name}.weight"), &record.weight);
        if let Some(bias) = &record.bias {
            self.add(&format!("{name}.bias"), bias);
        }
    }

    fn mlp<B: Backend>(&mut self, name: &str, record: &MlpRecord<B>) {
        self.projection(&format!("{name}.gate_proj"), &record.gate_proj);
        self.projection(&format!("{name}.up_proj"), &record.up_proj);
        self.projection(&format!("{name}.down_proj"), &record.down_proj);
    }
}
