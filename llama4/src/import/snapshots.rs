use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use burn_store::{Applier, ApplyError, TensorSnapshot, TensorSnapshotError};

use super::encode::{self, EncodeError};
use super::experts::{self, Group};
use super::mapped;
use super::matrix::Matrix;
use super::most_values::most_values;
use super::names::Layout;
use super::path::ModulePath;
use super::plan::{Plan, PlannedTensor};
use super::read_ahead::ReadAhead;
use super::report::LoadProgress;
use super::storage::Storage;
use crate::Llama4Config;
use crate::error::ImportError;
use crate::nn::moe::ELEMENTS_PER_TENSOR;
use crate::nn::{Llama4ForCausalLM, WeightSlot};
use crate::quant::{PackedTensor, Packing, Rows, Weight, WeightKind, resident};

/// A parameter of the model as it is filled: a planned tensor, or one group of its experts.
struct Source {
    /// Path in the model, without the names of enum variants.
    path: String,
    /// Whether these are only some rows of what is there.
    part: bool,
    shape: Vec<usize>,
    matrices: Vec<Matrix>,
    /// `None` for floats.
    packing: Option<Packing>,
    /// The file, for messages.
    file: Arc<Path>,
    /// Bytes on disk.
    bytes: u64,
}

/// Fill a model tensor by tensor: each is read from the mapped file, converted or packed, and uploaded before the next one is touched, so
/// that no more than one is held on the host. What is stored as it is wanted is not even copied where the backend computes on the host.
///
/// Packed weights come first, by their place in the model, and those that are split because no tensor may have more than `largest` bytes;
/// then the other floats, through burn-store.
pub(super) fn load<B: Backend>(
    config: &Llama4Config,
    plan: &Plan,
    storage: &Storage,
    largest: Option<u64>,
    place: &Path,
    device: &B::Device,
    progress: &mut dyn FnMut(LoadProgress<'_>) -> ControlFlow<()>,
) -> Result<Llama4ForCausalLM<B>, ImportError> {
    let mut model = config.init::<B>(device);
    let of_experts = plan.tensors.iter().filter(|tensor| tensor.expected.kind == WeightKind::Experts);
    let elements_of_experts = most_values(largest, of_experts.map(|tensor| storage.packing(tensor)));
    if elements_of_experts < ELEMENTS_PER_TENSOR {
        model.regroup_experts(elements_of_experts);
    }
    let groups = experts::groups(config, elements_of_experts);
    let sources: Vec<Source> =
        plan.tensors.iter().flat_map(|tensor| sources(&groups, tensor, storage.packing(tensor), largest)).collect();
    if let Some(largest) = largest
        && let Some(source) = sources.iter().find(|source| source.device_bytes(storage.dtype) > largest)
    {
        let bytes = source.device_bytes(storage.dtype);
        return Err(ImportError::TensorTooLarge { name: source.path.clone(), bytes, largest });
    }
    let (mut packed, floats): (Vec<Source>, Vec<Source>) =
        sources.into_iter().partition(|source| source.packing.is_some() || source.part);
    let places: HashMap<String, usize> =
        model.weight_slots().into_iter().enumerate().map(|(index, (path, _))| (path, index)).collect();
    packed.sort_by_key(|source| places.get(&source.path).copied());

    // What is used where it is in the file is not read ahead but mapped in whole pieces.
    let converted = packed.iter().chain(&floats).enumerate().filter(|(_, source)| !source.is_used_in_place());
    let converted: Vec<(usize, Matrix)> = converted
        .flat_map(|(index, source)| source.matrices.iter().map(move |matrix| (index, matrix.clone())))
        .collect();
    let ahead = Arc::new(ReadAhead::default());
    let filling = Filling { dtype: storage.dtype, place, total: plan.bytes(), ahead: ahead.clone() };
    thread::scope(|scope| {
        let _stop = ahead.stop_when_dropped();
        scope.spawn(|| ahead.run(converted.iter().map(|(index, matrix)| (*index, matrix))));
        filling.run(model, packed, floats, device, progress)
    })
}

impl Source {
    /// Bytes of its tensor on the device; of a packed one, those of the words.
    fn device_bytes(&self, dtype: DType) -> u64 {
        let (columns, values) = (self.shape[self.shape.len() - 1], self.shape.iter().product::<usize>() as u64);
        match self.packing {
            Some(packing) => values / columns as u64 * 4 * packing.words(columns) as u64,
            None => values * dtype.size() as u64,
        }
    }

    /// Whether its words are the file's.
    fn is_used_in_place(&self) -> bool {
        self.packing.is_some_and(|packing| self.matrices.iter().all(|matrix| matrix.packed_spans(packing).is_some()))
    }
}

/// A model being filled.
struct Filling<'a> {
    dtype: DType,
    /// The checkpoint, for messages.
    place: &'a Path,
    /// Bytes on disk of all parameters.
    total: u64,
    ahead: Arc<ReadAhead>,
}

impl Filling<'_> {
    /// Rows of floats on the device.
    fn float<B: Backend>(&self, source: &Source, device: &B::Device) -> Result<Param<Tensor<B, 2>>, ImportError> {
        let data = encode::floats(&source.matrices, self.dtype, source.shape.clone()).map_err(|error| match error {
            EncodeError::NotRepresentable => {
                ImportError::Overflow { name: source.path.clone(), file: source.file.to_path_buf() }
            }
            EncodeError::Unsupported => ImportError::Loader {
                file: source.file.to_path_buf(),
                reason: format!("{:?} is no type of floats", self.dtype),
            },
        })?;
        let bytes = source.device_bytes(self.dtype) as usize;
        let upload = |data| Tensor::from_data_dtype(data, device, self.dtype);
        Ok(Param::initialized(ParamId::new(), resident::<B, _, _>(device, bytes, data, upload)))
    }

    /// `packed` in the order of the model's slots.
    fn run<B: Backend>(
        &self,
        mut model: Llama4ForCausalLM<B>,
        packed: Vec<Source>,
        floats: Vec<Source>,
        device: &B::Device,
        progress: &mut dyn FnMut(LoadProgress<'_>) -> ControlFlow<()>,
    ) -> Result<Llama4ForCausalLM<B>, ImportError> {
        let first_float = packed.len();
        let mut slots: HashMap<String, WeightSlot<B>> = model.weight_slots().into_iter().collect();
        let mut done = 0;
        for (index, source) in packed.into_iter().enumerate() {
            self.ahead.reached(index);
            let name = &source.path;
            if progress(LoadProgress { bytes_done: done, bytes_total: self.total, name }).is_break() {
                return Err(ImportError::Cancelled { bytes_done: done, bytes_total: self.total });
            }
            let Some(slot) = slots.get_mut(name) else {
                // The plan has compared all names already; a difference here means that `names` and `nn` disagree.
                let place = self.place.to_path_buf();
                return Err(ImportError::Names { place, missing: Vec::new(), unexpected: vec![source.path] });
            };
            match slot.matrix() {
                Some(weight) if source.part => {
                    let rows = match source.packing {
                        Some(_) => Rows::Packed(pack(&source, device)?),
                        None => Rows::Float(self.float(&source, device)?),
                    };
                    match weight {
                        Weight::Split(parts) => parts.push(rows),
                        weight => *weight = Weight::Split(vec![rows]),
                    }
                }
                _ => slot.set_packed(pack(&source, device)?),
            }
            done += source.bytes;
        }
        drop(slots);

        let bytes = floats.iter().map(|source| (source.path.clone(), source.bytes)).collect();
        let files: HashMap<String, Arc<Path>> =
            floats.iter().map(|source| (source.path.clone(), source.file.clone())).collect();
        let snapshots = floats
            .into_iter()
            .zip(first_float..)
            .map(|(source, index)| snapshot(source, self.dtype, self.ahead.clone(), index))
            .collect();
        // What `ModuleSnapshot::apply` does, but on a model that is owned: `apply` takes it out of a reference and puts it back,
        // which a panic on the way (an allocation that fails on the device) would turn into a double free.
        let mut mapper = Reporting {
            inner: Applier::<B>::new(snapshots, None, None, true),
            dtype: self.dtype,
            path: ModulePath::default(),
            bytes,
            done,
            total: self.total,
            cancelled: false,
            progress,
        };
        let model = model.map(&mut mapper);
        mapper.report("");
        let Reporting { inner, done, total, cancelled, .. } = mapper;
        if cancelled {
            return Err(ImportError::Cancelled { bytes_done: done, bytes_total: total });
        }
        let result = inner.into_result();
        if let Some(error) = result.errors.first() {
            return Err(apply_error(error, &files, self.place));
        }
        // The plan has compared all names already; a difference here means that `names` and `nn` disagree.
        if !result.missing.is_empty() || !result.unused.is_empty() {
            let missing = result.missing.into_iter().map(|(path, _)| path).collect();
            return Err(ImportError::Names { place: self.place.to_path_buf(), missing, unexpected: result.unused });
        }
        Ok(model)
    }
}

/// The parameters that a planned tensor fills: a matrix of more than `largest` bytes in several parts.
fn sources(groups: &[Group], tensor: &PlannedTensor, packing: Option<Packing>, largest: Option<u64>) -> Vec<Source> {
    let elements = most_values(largest, [packing]);
    let PlannedTensor { expected, matrices, file, bytes, .. } = tensor;
    let [experts, output, input] = expected.matrices();
    let source = |path: String, shape: Vec<usize>, matrices: &[Matrix], bytes: u64| Source {
        path,
        part: false,
        shape,
        matrices: matrices.to_vec(),
        packing,
        file: file.clone(),
        bytes,
    };
    match expected.layout {
        Layout::TurnedExperts => groups
            .iter()
            .enumerate()
            .map(|(index, &Group { first, count })| {
                let shape = vec![count, output, input];
                let bytes = bytes * count as u64 / experts as u64;
                source(experts::path(&expected.name, index), shape, &matrices[first..first + count], bytes)
            })
            .collect(),
        Layout::Same if expected.shape.len() == 2 && output * input > elements => {
            // All that is in file order below each other, so that any rows can be taken.
            let whole = Matrix::Below(matrices.clone());
            let height = (elements / input).max(1);
            let part = |first: usize| {
                let rows = first..(first + height).min(output);
                let shape = vec![rows.len(), input];
                let bytes = bytes * rows.len() as u64 / output as u64;
                Source { part: true, ..source(expected.name.clone(), shape, &[whole.slice_rows(rows)], bytes) }
            };
            (0..output).step_by(height).map(part).collect()
        }
        Layout::Same => vec![source(expected.name.clone(), expected.shape.clone(), matrices, *bytes)],
    }
}

/// A packed parameter on the device.
fn pack<B: Backend>(source: &Source, device: &B::Device) -> Result<PackedTensor<B>, ImportError> {
    let Some(packing) = source.packing else { unreachable!("sources were parted by it") };
    let data = match mapped::packed(&source.matrices, packing) {
        Some(data) => data,
        None => encode::pack(&source.matrices, packing).map_err(|_| ImportError::NotRepresentable {
            name: source.path.clone(),
            packing,
            file: source.file.to_path_buf(),
        })?,
    };
    Ok(PackedTensor::from_data(data, device))
}

/// A snapshot that reads its values when they are asked for.
fn snapshot(source: Source, dtype: DType, ahead: Arc<ReadAhead>, index: usize) -> TensorSnapshot {
    let Source { path, shape, matrices, .. } = source;
    let path = path.split('.').map(str::to_owned).collect();
    let wanted = shape.clone();
    let read = move || {
        ahead.reached(index);
        encode::floats(&matrices, dtype, wanted.clone()).map_err(|error| {
            TensorSnapshotError::DataError(match error {
                EncodeError::NotRepresentable => OVERFLOW.to_string(),
                EncodeError::Unsupported => format!("{dtype:?} is no type of floats"),
            })
        })
    };
    TensorSnapshot::from_closure(Rc::new(read), dtype, shape, path, Vec::new(), ParamId::new())
}

/// burn-store's errors are text; this one is told from the others.
const OVERFLOW: &str = "value beyond the range of F16";

fn apply_error(error: &ApplyError, files: &HashMap<String, Arc<Path>>, place: &Path) -> ImportError {
    let (ApplyError::ShapeMismatch { path, .. }
    | ApplyError::DTypeMismatch { path, .. }
    | ApplyError::AdapterError { path, .. }
    | ApplyError::LoadError { path, .. }) = error;
    let file = files.get(path).map_or(place, |file| file).to_path_buf();
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
    dtype: DType,
    path: ModulePath,
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
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, name: &str, container_type: &str) {
        self.inner.exit_module(name, container_type);
        self.path.exit(container_type);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        if self.path.in_part() {
            return param;
        }
        let path = self.path.name();
        self.report(&path);
        if self.cancelled {
            return param;
        }
        let (device, bytes) = (param.lazy_device(), param.lazy_shape().num_elements() * self.dtype.size());
        let fill = |(inner, param): (&mut Applier<B>, Param<Tensor<B, D>>)| inner.map_float(param);
        let param = resident::<B, _, _>(&device, bytes, (&mut self.inner, param), fill);
        self.done += self.bytes.get(&path).copied().unwrap_or(0);
        param
    }
}
