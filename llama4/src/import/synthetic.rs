//! Random models made where they compute, without a file: for benchmarks of models that fit a device but not a disk or a host.

use std::collections::HashMap;
use std::ops::ControlFlow;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Element, Tensor, TensorData};
use bytemuck::{NoUninit, Zeroable};
use half::{bf16, f16};
use rayon::prelude::*;

use super::draw::{self, mix};
use super::names::{ExpectedTensor, expected_tensors};
use super::report::LoadProgress;
use crate::error::ImportError;
use crate::memory::MemoryOptions;
use crate::nn::WeightSlot;
use crate::ops::{computes_in, shared};
use crate::quant::{BLOCK, PackedData, PackedTensor, Packing, Quantization, WeightKind, pack, shared_bytes};
use crate::{Llama4Config, Llama4ForCausalLM};

/// Blocks of the pool that all weights are windows of. A prime, so that rows of any whole number of blocks begin at a different place each until
/// as many rows have gone by: more than the largest vocabulary has.
const POOL_BLOCKS: usize = 262_139;

/// Entries that one core fills at once.
const RUN: usize = 1 << 18;

/// How a random model is held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyntheticOptions {
    /// The same seed gives the same values, in any packing and type but for rounding.
    pub seed: u64,
    /// Type of the activations, and of all weights that are not packed; `None` is the backend's own float type.
    pub dtype: Option<DType>,
    /// What is packed.
    pub quantization: Option<Quantization>,
}

impl Llama4Config {
    /// A model with random weights, each made on the device in its final form, one on the host at a time.
    ///
    /// Weights are windows of one pool of normal values: distributed as those of a [`Synth`](super::Synth) checkpoint, but copied as fast as memory
    /// allows. No quantiser runs over them; the pool alone is packed, once for each scale.
    ///
    /// `progress` is called before each tensor and at the end; [`ControlFlow::Break`] stops.
    ///
    /// # Errors
    /// When the backend lacks the type, or `progress` says to stop.
    pub fn synthetic<B: Backend>(
        &self,
        options: &SyntheticOptions,
        device: &B::Device,
        mut progress: impl FnMut(LoadProgress<'_>) -> ControlFlow<()>,
    ) -> Result<Llama4ForCausalLM<B>, ImportError> {
        let dtype = options.dtype.unwrap_or(B::FloatElem::dtype());
        if !computes_in::<B>(device, dtype) {
            return Err(ImportError::BackendDtype { dtype, backend: B::name(device) });
        }
        let SyntheticOptions { seed, quantization, .. } = *options;
        let sizes = MemoryOptions { dtype, stored: dtype, quantization, context: 1, batch: 1 };
        let mut making = Making {
            config: self,
            tensors: expected_tensors(self).into_iter().enumerate().map(|(at, t)| (t.name.clone(), (at, t))).collect(),
            drawn: HashMap::new(),
            weights: RandomWeights::new(seed),
            dtype,
            device,
            path: Vec::new(),
            done: 0,
            total: self.memory(&sizes).weights,
            cancelled: false,
            progress: &mut progress,
        };
        let mut model = self.init::<B>(device);
        for (path, mut slot) in model.weight_slots() {
            let (kind, [rows, columns]) = making.slot(&path, &mut slot);
            if let Some(packing) = quantization.and_then(|wanted| wanted.storage(kind, columns, dtype)) {
                making.pack(&path, slot, packing, rows, columns);
            }
        }
        let model = model.map(&mut making);
        making.report("");
        let Making { cancelled, done: bytes_done, total: bytes_total, .. } = making;
        if cancelled { Err(ImportError::Cancelled { bytes_done, bytes_total }) } else { Ok(model) }
    }
}

/// A model being made.
struct Making<'a, B: Backend> {
    config: &'a Llama4Config,
    /// All parameters by their name, with their place in the model's order.
    tensors: HashMap<String, (usize, ExpectedTensor)>,
    /// Values of each that are made already: a parameter may be held in several tensors.
    drawn: HashMap<usize, usize>,
    weights: RandomWeights,
    dtype: DType,
    device: &'a B::Device,
    path: Vec<String>,
    done: u64,
    total: u64,
    cancelled: bool,
    progress: &'a mut dyn FnMut(LoadProgress<'_>) -> ControlFlow<()>,
}

impl<B: Backend> Making<'_, B> {
    fn report(&mut self, name: &str) {
        if !self.cancelled {
            let progress = LoadProgress { bytes_done: self.done, bytes_total: self.total, name };
            self.cancelled = (self.progress)(progress).is_break();
        }
    }

    /// The parameter that the tensor at `path` is, or is a part of.
    fn tensor(&self, path: &str) -> &(usize, ExpectedTensor) {
        let mut whole: Vec<&str> = path.split('.').collect();
        if let Some(at) = whole.iter().position(|part| *part == "groups") {
            whole.drain(at..at + 2);
        }
        let Some(tensor) = self.tensors.get(&whole.join(".")) else {
            panic!("the model has a parameter {path} that no checkpoint has");
        };
        tensor
    }

    /// What a weight is, and its rows and columns.
    fn slot(&self, path: &str, slot: &mut WeightSlot<'_, B>) -> (WeightKind, [usize; 2]) {
        let shape = slot.float_shape().expect("a new model is not packed");
        let (columns, rows) = shape.split_last().map_or((0, 0), |(columns, rows)| (*columns, rows.iter().product()));
        (self.tensor(path).1.kind, [rows, columns])
    }

    /// Where in the pool the next `count` values of a parameter begin.
    fn draw(&mut self, path: &str, count: usize) -> (usize, Option<f32>) {
        let (index, tensor) = self.tensor(path);
        let (index, deviation) = (*index, draw::deviation(self.config, tensor));
        let drawn = self.drawn.entry(index).or_insert(0);
        let start = self.weights.start(index) + *drawn;
        *drawn += count;
        (start, deviation)
    }

    fn pack(&mut self, path: &str, mut slot: WeightSlot<'_, B>, packing: Packing, rows: usize, columns: usize) {
        self.report(path);
        if self.cancelled {
            return;
        }
        let (start, deviation) = self.draw(path, rows * columns);
        let data = self.weights.packed(packing, [rows, columns], deviation.unwrap_or(1.0), start);
        let tensor = PackedTensor::from_data(data, self.device);
        slot.set_packed(tensor);
        self.done += (rows * packing.row_bytes(columns)) as u64;
    }
}

impl<B: Backend> ModuleMapper<B> for Making<'_, B> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        if !container_type.starts_with("Enum:") {
            self.path.push(name.to_string());
        }
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
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
        let shape = param.lazy_shape().to_vec();
        let count = shape.iter().product();
        let data = match self.draw(&path, count) {
            (_, None) => TensorData::ones::<f32, _>(shape),
            (start, Some(deviation)) => self.weights.floats(self.dtype, shape, deviation, start),
        };
        self.done += (count * self.dtype.size()) as u64;
        let tensor = shared(Tensor::from_data_dtype(data, self.device, self.dtype));
        Param::initialized(param.id, tensor)
    }
}

/// Random weights of any shape and form, as windows of one pool of normal values.
#[derive(Debug)]
pub struct RandomWeights {
    seed: u64,
    pool: Vec<f32>,
    /// The pool in each packing and scale (the bits of its deviation) that was asked for.
    packed: HashMap<(Packing, u32), PackedPool>,
    /// The pool in each type and scale, values as their bits.
    floats: HashMap<(DType, u32), FloatPool>,
}

#[derive(Debug)]
struct PackedPool {
    words: Vec<u32>,
    scales: Vec<u16>,
}

#[derive(Debug)]
enum FloatPool {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl RandomWeights {
    /// A pool of 2²³ values.
    pub fn new(seed: u64) -> Self {
        let mut pool = vec![0.0; POOL_BLOCKS * BLOCK];
        pool.par_chunks_mut(RUN).enumerate().for_each(|(run, values)| {
            let drawn = draw::bells(mix(mix(seed) ^ run as u64));
            values.iter_mut().zip(drawn).for_each(|(value, drawn)| *value = drawn);
        });
        Self { seed, pool, packed: HashMap::new(), floats: HashMap::new() }
    }

    /// A place in the pool, at the beginning of a block: another one for each `index`.
    pub fn start(&self, index: usize) -> usize {
        (mix(self.seed ^ mix(index as u64)) % POOL_BLOCKS as u64) as usize * BLOCK
    }

    /// Rows of packed values of the given standard deviation, from a place in the pool on.
    ///
    /// # Panics
    /// If the packing does not fit rows of `columns`, or `start` is not at the beginning of a block.
    pub fn packed(
        &mut self,
        packing: Packing,
        [rows, columns]: [usize; 2],
        deviation: f32,
        start: usize,
    ) -> PackedData {
        assert!(packing.fits(columns) && start.is_multiple_of(BLOCK), "whole blocks");
        let pool = &self.pool;
        let packed = self
            .packed
            .entry((packing, deviation.to_bits()))
            .or_insert_with(|| PackedPool::new(pool, packing, deviation));
        let words = packing.words(columns);
        let (scales, stride) = (packing.scales(columns), 2 * packing.scale_words(columns));
        PackedData {
            packing,
            rows,
            columns,
            words: shared_bytes(windows(&packed.words, packing.words(start), rows, words, words)),
            scales: shared_bytes(windows(&packed.scales, packing.scales(start), rows, scales, stride)),
        }
    }

    /// Floats of the given standard deviation, from a place in the pool on. Types other than `F16` and `BF16` are made as `F32`.
    pub fn floats(&mut self, dtype: DType, shape: Vec<usize>, deviation: f32, start: usize) -> TensorData {
        let pool = &self.pool;
        let floats =
            self.floats.entry((dtype, deviation.to_bits())).or_insert_with(|| FloatPool::new(pool, dtype, deviation));
        let columns = shape.last().copied().unwrap_or(1).max(1);
        let rows = shape.iter().product::<usize>() / columns;
        match floats {
            FloatPool::F32(pool) => TensorData::new(windows(pool, start, rows, columns, columns), shape),
            FloatPool::F16(pool) => TensorData::new(windows(pool, start, rows, columns, columns), shape),
            FloatPool::Bf16(pool) => TensorData::new(windows(pool, start, rows, columns, columns), shape),
        }
    }
}

impl PackedPool {
    fn new(pool: &[f32], packing: Packing, deviation: f32) -> Self {
        let mut words = vec![0; packing.words(pool.len())];
        let mut scales = vec![0; packing.scales(pool.len())];
        let mut none = vec![[0_u16; 0]; pool.len().div_ceil(RUN)];
        let runs: Vec<&mut [u16]> = match packing.has_scales() {
            true => scales.chunks_mut(packing.scales(RUN)).collect(),
            false => none.iter_mut().map(|none| &mut none[..]).collect(),
        };
        let runs = words.par_chunks_mut(packing.words(RUN)).zip(runs).zip(pool.par_chunks(RUN));
        runs.for_each(|((words, scales), values)| {
            let values: Vec<f32> = values.iter().map(|value| value * deviation).collect();
            let packed = pack(packing, &values, words, scales);
            packed.expect("values of a bounded distribution are within the range of any packing");
        });
        Self { words, scales }
    }
}

impl FloatPool {
    fn new(pool: &[f32], dtype: DType, deviation: f32) -> Self {
        let scaled = pool.par_iter().map(|value| value * deviation);
        match dtype {
            DType::F16 => Self::F16(scaled.map(f16::from_f32).collect()),
            DType::BF16 => Self::Bf16(scaled.map(bf16::from_f32).collect()),
            _ => Self::F32(scaled.collect()),
        }
    }
}

/// Rows of `stride` entries, the first `width` of each copied from the pool, which begins again at its end; each row goes on where the one before
/// it ended.
fn windows<T: NoUninit + Zeroable + Send + Sync>(
    pool: &[T],
    start: usize,
    rows: usize,
    width: usize,
    stride: usize,
) -> Vec<T> {
    let mut values = bytemuck::zeroed_vec(rows * stride);
    if width == 0 {
        return values;
    }
    let at_once = RUN.div_ceil(stride);
    values.par_chunks_mut(at_once * stride).enumerate().for_each(|(band, values)| {
        for (row, values) in values.chunks_exact_mut(stride).enumerate() {
            let mut from = (start + (band * at_once + row) * width) % pool.len();
            let mut rest = &mut values[..width];
            while !rest.is_empty() {
                let count = rest.len().min(pool.len() - from);
                let (here, after) = rest.split_at_mut(count);
                here.copy_from_slice(&pool[from..from + count]);
                (rest, from) = (after, 0);
            }
        }
    });
    values
}

#[cfg(test)]
mod tests {
    use burn::tensor::FloatDType;
    use burn_ndarray::NdArray;

    use super::*;
    use crate::nn::{ForwardOptions, TokenBatch};

    type Model = Llama4ForCausalLM<NdArray>;

    fn model(config: &Llama4Config, seed: u64, quantization: Option<Quantization>) -> Model {
        let options = SyntheticOptions { seed, dtype: None, quantization };
        config.synthetic(&options, &Default::default(), |_| ControlFlow::Continue(())).unwrap()
    }

    /// Widths of whole blocks, so that everything can be packed.
    fn config() -> Llama4Config {
        let mut config = Llama4Config::tiny_dense_and_moe();
        (config.hidden_size, config.intermediate_size, config.head_dim) = (96, 96, 32);
        config
    }

    fn logits(model: &Model) -> Vec<f32> {
        let tokens: Vec<u32> = (0..64).collect();
        let output = model.forward(
            &TokenBatch::single(&tokens, &model.device()),
            &mut model.new_cache(1, 64),
            &ForwardOptions { trace: true, ..ForwardOptions::default() },
        );
        let output = output.unwrap();
        for (layer, routing) in output.trace.unwrap().routing.into_iter().enumerate() {
            let Some(routing) = routing else { continue };
            let mut used: Vec<usize> = routing.experts;
            used.sort_unstable();
            used.dedup();
            assert_eq!(used, [0, 1, 2, 3], "layer {layer}");
        }
        output.last_logits.into_data().to_vec().unwrap()
    }

    #[track_caller]
    fn assert_alive(logits: &[f32]) {
        let mean = logits.iter().sum::<f32>() / logits.len() as f32;
        let deviation = (logits.iter().map(|l| (l - mean).powi(2)).sum::<f32>() / logits.len() as f32).sqrt();
        assert!((0.3..3.0).contains(&deviation), "deviation {deviation}");
    }

    #[test]
    fn models_run_and_use_all_their_experts() {
        for config in [Llama4Config::tiny_moe(), Llama4Config::tiny_chunked(), config()] {
            for quantization in [None, Some(Quantization::q8()), Some(Quantization::q4())] {
                assert_alive(&logits(&model(&config, 3, quantization)));
            }
        }
    }

    #[test]
    fn the_seed_decides_the_values() {
        let quantization = Some(Quantization::q4());
        let first = logits(&model(&config(), 3, quantization));
        assert_eq!(first, logits(&model(&config(), 3, quantization)));
        assert_ne!(first, logits(&model(&config(), 4, quantization)));
    }

    #[test]
    fn packings_hold_the_same_values_but_for_rounding() {
        let [float, packed] = [None, Some(Quantization::q8())].map(|q| logits(&model(&config(), 3, q)));
        let worst = float.iter().zip(&packed).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst > 0.0 && worst < 0.2, "{worst}");
    }

    #[test]
    fn weights_are_packed_as_asked() {
        let quantization = Quantization { weights: Packing::Q4, head: Packing::Q8, embedding: Packing::Bf16 };
        let mut model = model(&config(), 3, Some(quantization));
        let config = config();
        let kinds: HashMap<String, WeightKind> =
            expected_tensors(&config).into_iter().map(|tensor| (tensor.name, tensor.kind)).collect();
        for (path, mut slot) in model.weight_slots() {
            let packing = slot.packed().map(PackedTensor::packing);
            let name = path.replace("groups.0.", "");
            assert_eq!(packing, quantization.packing(kinds[&name]), "{path}");
        }
    }

    #[test]
    fn values_have_the_deviation_of_their_packing_and_rows_differ() {
        let mut weights = RandomWeights::new(1);
        // Three blocks a row, so that the last word of scales is half used.
        for packing in Packing::ALL.iter().copied() {
            let start = weights.start(5);
            let data = weights.packed(packing, [400, 96], 0.05, start);
            let tensor = PackedTensor::<NdArray>::from_data(data, &Default::default());
            let values: Vec<f32> =
                crate::ops::unpack_rows(&tensor, 0..400, FloatDType::F32).into_data().to_vec().unwrap();
            let square = values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
            assert!((square.sqrt() / 0.05 - 1.0).abs() < 0.02, "{packing}: {}", square.sqrt());
            let rows: std::collections::HashSet<Vec<u32>> =
                values.chunks(96).map(|row| row.iter().map(|value| value.to_bits()).collect()).collect();
            assert_eq!(rows.len(), 400, "{packing}");
        }
    }

    #[test]
    fn windows_go_round() {
        let pool: Vec<u16> = (0..5).collect();
        assert_eq!(windows(&pool, 3, 3, 3, 4), [3, 4, 0, 0, 1, 2, 3, 0, 4, 0, 1, 0]);
        assert_eq!(windows(&pool, 4, 1, 12, 12), [4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0]);
    }

    #[test]
    fn it_stops_when_told_to() {
        let mut calls = 0;
        let stopped = Llama4Config::tiny_moe().synthetic::<NdArray>(&Default::default(), &Default::default(), |_| {
            calls += 1;
            if calls == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(stopped, Err(ImportError::Cancelled { bytes_done, .. }) if bytes_done > 0));
        assert_eq!(calls, 3);
    }

    #[test]
    fn progress_ends_at_what_the_model_takes() {
        let mut last = (0, 0);
        let options = SyntheticOptions { quantization: Some(Quantization::q4()), ..Default::default() };
        let made = config().synthetic::<NdArray>(&options, &Default::default(), |progress| {
            last = (progress.bytes_done, progress.bytes_total);
            ControlFlow::Continue(())
        });
        made.unwrap();
        assert_eq!(last.0, last.1);
    }
}
