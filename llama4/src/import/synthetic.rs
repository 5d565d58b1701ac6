//! Random models made where they compute, without a file: for benchmarks of models that fit a device but not a disk or a host.

use std::collections::HashMap;
use std::ops::ControlFlow;

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Element, Tensor, TensorData};

use super::draw;
use super::most_values::most_values;
use super::names::{ExpectedTensor, expected_tensors};
use super::path::ModulePath;
use super::random_weights::RandomWeights;
use super::report::LoadProgress;
use crate::error::ImportError;
use crate::memory::MemoryOptions;
use crate::nn::WeightSlot;
use crate::nn::moe::ELEMENTS_PER_TENSOR;
use crate::ops::{computes_in, shared};
use crate::quant::{PackedTensor, Packing, Quantization, Rows, Weight, WeightKind, resident};
use crate::{Llama4Config, Llama4ForCausalLM};

/// How a random model is held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyntheticOptions {
    /// The same seed gives the same values, in any packing and type but for rounding.
    pub seed: u64,
    /// Type of the activations, and of all weights that are not packed; `None` is the backend's own float type.
    pub dtype: Option<DType>,
    /// What is packed.
    pub quantization: Option<Quantization>,
    /// Most bytes of a tensor, where the device has such a limit: larger weights are held in several. `None` is no limit.
    pub largest_tensor: Option<u64>,
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
    /// When the backend lacks the type, a single expert is larger than a tensor may be, or `progress` says to stop.
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
        let SyntheticOptions { seed, quantization, largest_tensor, .. } = *options;
        let sizes =
            MemoryOptions { dtype, stored: dtype, quantization, context: 1, batch: 1, piece: 1, max_page: None };
        let mut making = Making {
            config: self,
            tensors: expected_tensors(self).into_iter().enumerate().map(|(at, t)| (t.name.clone(), (at, t))).collect(),
            drawn: HashMap::new(),
            weights: RandomWeights::new(seed),
            dtype,
            quantization,
            largest: largest_tensor,
            device,
            path: ModulePath::default(),
            done: 0,
            total: self.memory(&sizes).weights,
            cancelled: false,
            progress: &mut progress,
        };
        let mut model = self.init::<B>(device);
        let elements_of_experts = making.elements_of_experts();
        if elements_of_experts < ELEMENTS_PER_TENSOR {
            model.regroup_experts(elements_of_experts);
        }
        for (path, slot) in model.weight_slots() {
            making.fill(&path, slot)?;
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
    quantization: Option<Quantization>,
    /// Most bytes of a tensor.
    largest: Option<u64>,
    device: &'a B::Device,
    path: ModulePath,
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

    /// Most values of a tensor of experts.
    fn elements_of_experts(&self) -> usize {
        let columns = [self.config.hidden_size, self.config.intermediate_size];
        let packing =
            |columns| self.quantization.and_then(|wanted| wanted.storage(WeightKind::Experts, columns, self.dtype));
        most_values(self.largest, columns.map(packing))
    }

    /// A weight that is packed, or held in several tensors; others are filled with the rest of the floats.
    fn fill(&mut self, path: &str, mut slot: WeightSlot<'_, B>) -> Result<(), ImportError> {
        let (kind, [rows, columns]) = self.slot(path, &mut slot);
        let packing = self.quantization.and_then(|wanted| wanted.storage(kind, columns, self.dtype));
        let elements = most_values(self.largest, [packing]);
        let split = slot.matrix().filter(|_| rows * columns > elements);
        // Values keep their places in the parameter, so that a split model holds what the whole one holds.
        let height = if split.is_some() { (elements / columns).max(1) } else { rows };
        let row = packing.map_or(columns * self.dtype.size(), |packing| 4 * packing.words(columns));
        let bytes = (height * row) as u64;
        if let Some(largest) = self.largest.filter(|largest| bytes > *largest) {
            return Err(ImportError::TensorTooLarge { name: path.to_owned(), bytes, largest });
        }
        if let Some(weight) = split {
            let mut parts = Vec::new();
            for first in (0..rows).step_by(height) {
                let Some(part) = self.rows(path, packing, [height.min(rows - first), columns]) else { return Ok(()) };
                parts.push(part);
            }
            *weight = Weight::Split(parts);
        } else if packing.is_some()
            && let Some(Rows::Packed(packed)) = self.rows(path, packing, [rows, columns])
        {
            slot.set_packed(packed);
        }
        Ok(())
    }

    /// The next rows of a parameter; `None` once it is to stop.
    fn rows(&mut self, path: &str, packing: Option<Packing>, [rows, columns]: [usize; 2]) -> Option<Rows<B>> {
        self.report(path);
        if self.cancelled {
            return None;
        }
        Some(match packing {
            Some(packing) => {
                let (start, deviation) = self.draw(path, rows * columns);
                let data = self.weights.packed(packing, [rows, columns], deviation.unwrap_or(1.0), start);
                self.done += (rows * packing.row_bytes(columns)) as u64;
                Rows::Packed(PackedTensor::from_data(data, self.device))
            }
            None => Rows::Float(Param::initialized(ParamId::new(), self.floats(path, vec![rows, columns]))),
        })
    }

    /// The next values of a parameter.
    fn floats<const D: usize>(&mut self, path: &str, shape: Vec<usize>) -> Tensor<B, D> {
        let count = shape.iter().product::<usize>();
        let data = match self.draw(path, count) {
            (_, None) => TensorData::ones::<f32, _>(shape),
            (start, Some(deviation)) => self.weights.floats(self.dtype, shape, deviation, start),
        };
        self.done += (count * self.dtype.size()) as u64;
        let upload = |data| Tensor::from_data_dtype(data, self.device, self.dtype);
        shared(resident::<B, _, _>(self.device, count * self.dtype.size(), data, upload))
    }
}

impl<B: Backend> ModuleMapper<B> for Making<'_, B> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
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
        let tensor = self.floats(&path, param.lazy_shape().to_vec());
        Param::initialized(param.id, tensor)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::FloatDType;
    use burn_ndarray::NdArray;

    use super::*;
    use crate::nn::{ForwardOptions, TokenBatch};

    type Model = Llama4ForCausalLM<NdArray>;

    fn model(config: &Llama4Config, seed: u64, quantization: Option<Quantization>) -> Model {
        let options = SyntheticOptions { seed, quantization, ..SyntheticOptions::default() };
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

    /// [`config`] with an embedding and a head that do not fit [`LARGEST`].
    fn large() -> Llama4Config {
        Llama4Config { vocab_size: 500, ..config() }
    }

    /// An expert of [`config`] has two matrices of 96 by 96: that holds one.
    const LARGEST: u64 = 4 * 2 * 96 * 96;

    fn split(largest_tensor: u64, quantization: Option<Quantization>) -> Result<Model, ImportError> {
        let options = SyntheticOptions {
            seed: 3,
            quantization,
            largest_tensor: Some(largest_tensor),
            ..SyntheticOptions::default()
        };
        large().synthetic(&options, &Default::default(), |_| ControlFlow::Continue(()))
    }

    #[test]
    fn a_split_model_is_the_whole_one_in_smaller_tensors() {
        for quantization in [None, Some(Quantization::q8()), Some(Quantization::uniform(Packing::Q4))] {
            let mut whole = model(&large(), 3, quantization);
            // As many values, of fewer bits.
            let bits = quantization.map_or(32, |quantization| quantization.weights.bits() as u64);
            let largest = LARGEST * bits / 32;
            let mut parts = split(largest, quantization).unwrap();
            assert_eq!(whole.split_weights(), 0);
            // Four groups of one expert instead of one of four, each with two products.
            let more = 6 * config().moe_layers.len();
            assert_eq!(whole.weight_slots().len() + more, parts.weight_slots().len());
            let mut split = Vec::new();
            for (path, mut slot) in parts.weight_slots() {
                let Some(Weight::Split(rows)) = slot.matrix() else { continue };
                let fits = |rows: &Rows<_>| (rows.count() * 96) as u64 * bits / 8 <= largest;
                assert!(rows.len() > 1 && rows.iter().all(fits), "{path}");
                split.push(path);
            }
            assert!(split.contains(&"model.embed_tokens.weight".to_owned()), "{split:?}");
            assert!(split.contains(&"lm_head.weight".to_owned()), "{split:?}");
            // The product sums in another order where a matrix has other rows.
            for (found, expected) in logits(&parts).into_iter().zip(logits(&whole)) {
                assert!((found - expected).abs() < 1e-4, "{found} for {expected}, {quantization:?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_split_is_named() {
        let error = split(LARGEST - 4, None).unwrap_err().to_string();
        assert!(error.contains("experts.groups.0.gate_up_proj"), "{error}");
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
        for largest_tensor in [None, Some(LARGEST)] {
            let mut last = (0, 0);
            let quantization = Some(Quantization::q4());
            let options = SyntheticOptions { quantization, largest_tensor, ..Default::default() };
            let made = large().synthetic::<NdArray>(&options, &Default::default(), |progress| {
                last = (progress.bytes_done, progress.bytes_total);
                ControlFlow::Continue(())
            });
            made.unwrap();
            assert_eq!(last.0, last.1);
        }
    }
}
