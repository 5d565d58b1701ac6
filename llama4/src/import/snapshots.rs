use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::rc::Rc;

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use burn_store::{Applier, ApplyError, TensorSnapshot, TensorSnapshotError};

use super::experts::{self, Group};
use super::names::{ExpectedTensor, Layout};
use super::plan::{Plan, PlannedTensor};
use super::report::LoadProgress;
use super::values::{self, Part, ValuesError};
use crate::Llama4Config;
use crate::error::ImportError;
use crate::nn::Llama4ForCausalLM;

/// A parameter of the model as it is filled: a planned tensor, or one group of its experts.
struct Source {
    /// Path in the model, without the names of enum variants.
    path: String,
    shape: Vec<usize>,
    part: Part,
    tensor: Rc<PlannedTensor>,
    /// Bytes on disk.
    bytes: u64,
}

/// Fill a model tensor by tensor through burn-store: each is read from the mapped file, converted, turned if it holds experts, and
/// uploaded before the next one is touched, so that no more than one is held on the host.
pub(super) fn load<B: Backend>(
    config: &Llama4Config,
    plan: &Plan,
    place: &Path,
    dtype: DType,
    device: &B::Device,
    progress: &mut dyn FnMut(LoadProgress<'_>) -> ControlFlow<()>,
) -> Result<Llama4ForCausalLM<B>, ImportError> {
    let groups = experts::groups(config);
    let sources: Vec<Source> =
        plan.tensors.iter().flat_map(|tensor| sources(&groups, &Rc::new(tensor.clone()))).collect();
    let bytes = sources.iter().map(|source| (source.path.clone(), source.bytes)).collect();
    let tensors: HashMap<String, Rc<PlannedTensor>> =
        sources.iter().map(|source| (source.path.clone(), source.tensor.clone())).collect();
    let snapshots = sources.into_iter().map(|source| snapshot(source, dtype)).collect();

    // What `ModuleSnapshot::apply` does, but on a model that is owned: `apply` takes it out of a reference and puts it back,
    // which a panic on the way (an allocation that fails on the device) would turn into a double free.
    let mut mapper = Reporting {
        inner: Applier::<B>::new(snapshots, None, None, true),
        path: Vec::new(),
        bytes,
        done: 0,
        total: plan.bytes(),
        cancelled: false,
        progress,
    };
    let model = config.init::<B>(device).map(&mut mapper);
    mapper.report("");
    let Reporting { inner, done, total, cancelled, .. } = mapper;
    if cancelled {
        return Err(ImportError::Cancelled { bytes_done: done, bytes_total: total });
    }
    let result = inner.into_result();
    if let Some(error) = result.errors.first() {
        return Err(apply_error(error, &tensors, place));
    }
    // The plan has compared all names already; a difference here means that `names` and `nn` disagree.
    if !result.missing.is_empty() || !result.unused.is_empty() {
        let missing = result.missing.into_iter().map(|(path, _)| path).collect();
        return Err(ImportError::Names { place: place.to_path_buf(), missing, unexpected: result.unused });
    }
    Ok(model)
}

/// The parameters that a planned tensor fills.
fn sources(groups: &[Group], tensor: &Rc<PlannedTensor>) -> Vec<Source> {
    let ExpectedTensor { name, shape, layout } = &tensor.expected;
    let stored = tensor.stored.range.len() as u64;
    match (layout, shape.as_slice()) {
        (Layout::TurnedExperts, &[experts, rows, columns]) => groups
            .iter()
            .enumerate()
            .map(|(index, &group)| {
                let (path, shape, part) = experts::part(name, [experts, rows, columns], index, group);
                Source {
                    path,
                    shape,
                    part,
                    tensor: tensor.clone(),
                    bytes: stored / experts as u64 * group.count as u64,
                }
            })
            .collect(),
        _ => vec![Source {
            path: name.clone(),
            shape: shape.clone(),
            part: Part::Whole,
            tensor: tensor.clone(),
            bytes: stored,
        }],
    }
}

/// A snapshot that reads its values when they are asked for.
fn snapshot(source: Source, dtype: DType) -> TensorSnapshot {
    let Source { path, shape, part, tensor, .. } = source;
    let path = path.split('.').map(str::to_owned).collect();
    let wanted = shape.clone();
    let read = move || {
        let stored = &tensor.stored;
        values::read(stored.bytes(), &stored.dtype, dtype, part, wanted.clone()).map_err(|error| {
            TensorSnapshotError::DataError(match error {
                ValuesError::Overflow => OVERFLOW.to_string(),
                ValuesError::Unsupported => format!("no conversion from {} to {dtype:?}", stored.dtype),
                ValuesError::Short => "fewer bytes than its shape needs".to_string(),
            })
        })
    };
    TensorSnapshot::from_closure(Rc::new(read), dtype, shape, path, Vec::new(), ParamId::new())
}

/// burn-store's errors are text; this one is told from the others.
const OVERFLOW: &str = "value beyond the range of F16";

fn apply_error(error: &ApplyError, tensors: &HashMap<String, Rc<PlannedTensor>>, place: &Path) -> ImportError {
    let (ApplyError::ShapeMismatch { path, .. }
    | ApplyError::DTypeMismatch { path, .. }
    | ApplyError::AdapterError { path, .. }
    | ApplyError::LoadError { path, .. }) = error;
    let file = tensors.get(path).map_or(place, |tensor| &tensor.stored.file).to_path_buf();
    match error {
        ApplyError::LoadError { message, .. } if message.contains(OVERFLOW) => {
            ImportError::Overflow { name: path.clone(), file }
        }
        _ => ImportError::Loader { file, reason: error.to_string() },
    }
}

/// Hands every parameter on to burn-store's applier and says how far it is.
struct Reporting<'a, B: Backend> {
    inner: Applier<B>,
    path: Vec<String>,
    bytes: HashMap<String, u64>,
    done: u64,
    total: u64,
    cancelled: bool,
    progress: &'a mut dyn FnMut(LoadProgress<'_>) -> ControlFlow<()>,
}

impl<B: Backend> Reporting<'_, B> {
    fn report(&mut self, name: &str) {
        if !self.cancelled {
            let progress = LoadProgress { bytes_done: self.done, bytes_total: self.total, name };
            self.cancelled = (self.progress)(progress).is_break();
        }
    }
}

impl<B: Backend> ModuleMapper<B> for Reporting<'_, B> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.inner.enter_module(name, container_type);
        if !container_type.starts_with("Enum:") {
            self.path.push(name.to_string());
        }
    }

    fn exit_module(&mut self, name: &str, container_type: &str) {
        self.inner.exit_module(name, container_type);
        if !container_type.starts_with("Enum:") {
            self.path.pop();
        }
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let path = self.path.join(".");
        self.report(&path);
        if self.cancelled {
            return param;
        }
        let param = self.inner.map_float(param);
        self.done += self.bytes.get(&path).copied().unwrap_or(0);
        param
    }
}
