//! Single operations with the model's shapes.
//!
//! Weights are several, taken in turn, so that none is found in a cache that a whole model would have emptied.

use std::time::Instant;

use anyhow::Result;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Distribution, FloatDType, Int, Tensor, TensorData};
use llama4::Llama4Config;
use llama4::cache::{KvCache, Piece};
use llama4::import::RandomWeights;
use llama4::nn::moe::ExpertsConfig;
use llama4::nn::{RotaryTable, inverse_frequencies, rms_normalize, rotate};
use llama4::ops;
use llama4::quant::{PackedTensor, Packing, Quantization};

use crate::case::Operation;
use crate::cost::Cost;
use crate::harness::{Budget, Sample};

/// Bytes of weights that are taken in turn.
const IN_TURN: usize = 256 << 20;

/// Most weights of that.
const MOST: usize = 64;

/// Seconds that the calls of a repeat take at least.
const LONG_ENOUGH: f64 = 0.02;

/// Most calls of a repeat.
const MOST_CALLS: usize = 10_000;

/// Keys that attention over a cache sees.
const DEPTH: usize = 4096;

/// Values that an unpacked part has at most.
const UNPACKED: usize = 1 << 24;

/// What operations are made from.
pub(super) struct Shapes<'a, B: Backend> {
    pub(super) config: &'a Llama4Config,
    pub(super) dtype: DType,
    pub(super) quantization: Option<Quantization>,
    pub(super) device: &'a B::Device,
    /// Bytes that a tensor may have there.
    pub(super) largest_tensor: Option<u64>,
}

/// An operation with its inputs: what one call costs, and the call, given its number.
struct Call<'a> {
    cost: Cost,
    run: Box<dyn FnMut(usize) + 'a>,
}

/// Seconds of the repeats, calls in each, and what they cost together.
pub(super) fn measure<B: Backend>(
    shapes: &Shapes<'_, B>,
    operation: Operation,
    tokens: usize,
    budget: Budget,
) -> Result<(Sample, usize, Cost)> {
    let mut call = shapes.call(operation, tokens);
    let wait = || B::sync(shapes.device).map_err(|error| anyhow::anyhow!("the device failed: {error:?}"));
    let mut number = 0;
    let mut calls = |count: usize| {
        for _ in 0..count {
            (call.run)(number);
            number += 1;
        }
        wait()
    };
    // As many calls as take long enough to be timed; the first ones compile or tune kernels.
    calls(1)?;
    let mut count = 1;
    loop {
        let start = Instant::now();
        calls(count)?;
        if start.elapsed().as_secs_f64() >= LONG_ENOUGH || count >= MOST_CALLS {
            break;
        }
        count *= 2;
    }
    let sample = budget.measure(&mut (), |()| Ok(()), |()| calls(count), || Ok(()))?;
    let Cost { bytes, operations } = call.cost;
    let times = count as f64;
    Ok((sample, count, Cost { bytes: bytes * times, operations: operations * times }))
}

impl<'a, B: Backend> Shapes<'a, B> {
    fn call(&self, operation: Operation, tokens: usize) -> Call<'a> {
        match operation {
            Operation::Linear => self.linear(tokens),
            Operation::GroupedLinear => self.grouped_linear(tokens),
            Operation::PackedLinear => self.packed_linear(tokens),
            Operation::PackedGroupedLinear => self.packed_grouped_linear(tokens),
            Operation::PackedSelect => self.packed_select(tokens),
            Operation::UnpackRows => self.unpack_rows(),
            Operation::CachedAttention => self.cached_attention(tokens),
            Operation::FreshAttention => self.fresh_attention(tokens),
            Operation::RmsNormalize => self.rms_normalize(tokens),
            Operation::Rotate => self.rotate(tokens),
        }
    }

    /// What the operation works on, for people.
    pub(super) fn words(&self, operation: Operation) -> String {
        let [output, input] = self.matrix();
        let grouped = |row_bytes| {
            let [experts, rows, columns] = self.experts(row_bytes);
            format!("{experts} of {rows}x{columns}")
        };
        let Llama4Config { num_attention_heads, num_key_value_heads, head_dim, vocab_size, .. } = self.config;
        let packing = self.packing();
        let heads = format!("{num_attention_heads}/{num_key_value_heads} heads of {head_dim}");
        match operation {
            Operation::Linear => format!("{output}x{input}"),
            Operation::GroupedLinear => grouped(4 * input),
            Operation::PackedLinear => format!("{packing} {output}x{input}"),
            Operation::PackedGroupedLinear => format!("{packing} {}", grouped(4 * packing.words(input))),
            Operation::PackedSelect => format!("{packing} {vocab_size}x{input}"),
            Operation::UnpackRows => format!("{packing} {}x{input}", self.unpacked()),
            Operation::CachedAttention => format!("{heads}, {} keys", self.depth()),
            Operation::FreshAttention => heads,
            Operation::RmsNormalize => input.to_string(),
            Operation::Rotate => format!("{num_attention_heads} heads of {head_dim}"),
        }
    }

    /// The gate of the shared expert, or of the dense layers where there is none: `out`, `in`.
    fn matrix(&self) -> [usize; 2] {
        let config = self.config;
        let width = if config.moe_layers.is_empty() { config.intermediate_size_mlp } else { config.intermediate_size };
        [width, config.hidden_size]
    }

    /// A group of experts, `experts`, `out`, `in`, with so many bytes in a row of the weight: as many as a tensor may have. Models count four for
    /// any float, and scales apart. One "expert" where a model has none.
    fn experts(&self, row_bytes: usize) -> [usize; 3] {
        let [width, hidden] = self.matrix();
        let config = ExpertsConfig::new(hidden, width, self.config.num_local_experts.max(1));
        [experts_at_once(config, self.largest_tensor, row_bytes), 2 * width, hidden]
    }

    /// How packed operations are packed: as the model, else in 8 bits.
    fn packing(&self) -> Packing {
        self.quantization.map_or(Packing::Q8, |quantization| quantization.weights)
    }

    /// Rows that are unpacked at once.
    fn unpacked(&self) -> usize {
        let [rows, columns] = self.matrix();
        rows.min(UNPACKED / columns).max(1)
    }

    /// Keys that attention over a cache sees: what the model has, at most 4096.
    fn depth(&self) -> usize {
        DEPTH.min(self.config.max_position_embeddings).min(self.config.chunk_size(self.layer()).unwrap_or(DEPTH))
    }

    /// A layer that sees everything, if there is one.
    fn layer(&self) -> usize {
        (0..self.config.num_hidden_layers).find(|layer| self.config.chunk_size(*layer).is_none()).unwrap_or(0)
    }

    fn random<const D: usize>(&self, shape: [usize; D]) -> Tensor<B, D> {
        let dtype: FloatDType = self.dtype.into();
        Tensor::<B, D>::random(shape, Distribution::Normal(0.0, 1.0), self.device).cast(dtype)
    }

    /// Bytes of that many values of the activations' type.
    fn floats(&self, count: usize) -> f64 {
        (count * self.dtype.size()) as f64
    }

    fn weights<T>(&self, bytes: usize, make: impl FnMut(usize) -> T) -> Vec<T> {
        (0..(IN_TURN / bytes.max(1)).clamp(1, MOST)).map(make).collect()
    }

    fn float_weights<const D: usize>(&self, shape: [usize; D]) -> Vec<Tensor<B, D>> {
        let mut random = RandomWeights::new(0);
        let bytes = shape.iter().product::<usize>() * self.dtype.size();
        self.weights(bytes, |index| {
            let start = random.start(index);
            let data = random.floats(self.dtype, shape.to_vec(), (shape[D - 1] as f32).powf(-0.5), start);
            // A product, so that the backend has it in storage of its own: burn-ndarray copies what came from outside with every clone.
            Tensor::<B, D>::from_data_dtype(data, self.device, self.dtype) * 1.0
        })
    }

    fn packed_weights(&self, rows: usize, columns: usize) -> Vec<PackedTensor<B>> {
        let mut random = RandomWeights::new(0);
        let packing = self.packing();
        self.weights(rows * packing.row_bytes(columns), |index| {
            let start = random.start(index);
            let data = random.packed(packing, [rows, columns], (columns as f32).powf(-0.5), start);
            PackedTensor::from_data(data, self.device)
        })
    }

    fn linear(&self, tokens: usize) -> Call<'a> {
        let [output, input] = self.matrix();
        let (x, weights) = (self.random([tokens, input]), self.float_weights([output, input]));
        Call {
            cost: self.product_cost(self.floats(output * input), tokens, output, input),
            run: Box::new(move |number| drop(ops::linear(x.clone(), weights[number % weights.len()].clone()))),
        }
    }

    fn packed_linear(&self, tokens: usize) -> Call<'a> {
        let [output, input] = self.matrix();
        let (x, weights) = (self.random([tokens, input]), self.packed_weights(output, input));
        let bytes = (output * self.packing().row_bytes(input)) as f64;
        Call {
            cost: self.product_cost(bytes, tokens, output, input),
            run: Box::new(move |number| drop(ops::packed_linear(x.clone(), &weights[number % weights.len()]))),
        }
    }

    fn grouped_linear(&self, tokens: usize) -> Call<'a> {
        let [experts, output, input] = self.experts(4 * self.config.hidden_size);
        let (x, weights) = (self.random([tokens, input]), self.float_weights([experts, output, input]));
        let read = experts.min(tokens) as f64 * self.floats(output * input);
        Call {
            cost: self.product_cost(read, tokens, output, input),
            run: Box::new(move |number| {
                let weights = weights[number / experts % weights.len()].clone();
                drop(ops::grouped_linear(x.clone(), weights, &counts(tokens, experts, number)));
            }),
        }
    }

    fn packed_grouped_linear(&self, tokens: usize) -> Call<'a> {
        let [experts, output, input] = self.experts(4 * self.packing().words(self.config.hidden_size));
        let (x, weights) = (self.random([tokens, input]), self.packed_weights(experts * output, input));
        let read = (experts.min(tokens) * output * self.packing().row_bytes(input)) as f64;
        Call {
            cost: self.product_cost(read, tokens, output, input),
            run: Box::new(move |number| {
                let weights = &weights[number / experts % weights.len()];
                drop(ops::packed_grouped_linear(x.clone(), weights, &counts(tokens, experts, number)));
            }),
        }
    }

    /// `weight` bytes, input and output moved; two operations for each value and token.
    fn product_cost(&self, weight: f64, tokens: usize, output: usize, input: usize) -> Cost {
        let bytes = weight + self.floats(tokens * (input + output));
        Cost { bytes, operations: 2.0 * (tokens * output * input) as f64 }
    }

    fn packed_select(&self, tokens: usize) -> Call<'a> {
        let (vocab, columns) = (self.config.vocab_size, self.config.hidden_size);
        let weights = self.packed_weights(vocab, columns);
        let ids = (0..tokens as u32).map(|at| (at.wrapping_mul(2_654_435_761) % vocab as u32) as i32).collect();
        let ids = Tensor::<B, 1, Int>::from_data(TensorData::new::<i32, _>(ids, [tokens]), self.device);
        Call {
            cost: Cost {
                bytes: (tokens * (self.packing().row_bytes(columns) + 4 * columns)) as f64,
                operations: (tokens * columns) as f64,
            },
            run: Box::new(move |number| drop(ops::packed_select(&weights[number % weights.len()], ids.clone()))),
        }
    }

    fn unpack_rows(&self) -> Call<'a> {
        let ([rows, columns], at_once) = (self.matrix(), self.unpacked());
        let weights = self.packed_weights(rows, columns);
        let dtype: FloatDType = self.dtype.into();
        Call {
            cost: Cost {
                bytes: (at_once * self.packing().row_bytes(columns)) as f64 + self.floats(at_once * columns),
                operations: (at_once * columns) as f64,
            },
            run: Box::new(move |number| drop(ops::unpack_rows(&weights[number % weights.len()], 0..at_once, dtype))),
        }
    }

    fn cached_attention(&self, tokens: usize) -> Call<'a> {
        let (config, depth) = (self.config, self.depth());
        let tokens = tokens.min(depth);
        let layers = self.layer() + 1;
        let config = config.clone().with_layers(layers).unwrap_or_else(|_| config.clone());
        let mut cache = KvCache::<B>::new(&config, 1, depth, self.dtype, self.device);
        cache.fill_for_benchmark(depth).expect("it was made for that many");
        let queries = self.random([tokens, config.num_attention_heads, config.head_dim]);
        let pieces = [Piece { row: 0, offset: 0, len: tokens, first_slot: depth - tokens }];
        let scale = config.attention_multiplier;
        Call {
            cost: self.attention_cost(tokens, depth),
            run: Box::new(move |_| {
                drop(ops::cached_attention(&queries, &cache.layers()[layers - 1], &pieces, scale));
            }),
        }
    }

    fn fresh_attention(&self, tokens: usize) -> Call<'a> {
        let Llama4Config { num_attention_heads, num_key_value_heads, head_dim, .. } = *self.config;
        let queries = self.random([tokens, num_attention_heads, head_dim]);
        let [keys, values] = [0, 1].map(|_| self.random([tokens, num_key_value_heads, head_dim]));
        let pieces = [Piece { row: 0, offset: 0, len: tokens, first_slot: 0 }];
        let scale = self.config.attention_multiplier;
        Call {
            cost: self.attention_cost(tokens, tokens),
            run: Box::new(move |_| drop(ops::fresh_attention(&queries, &keys, &values, &pieces, scale))),
        }
    }

    /// Keys and values read, queries in, outputs out; query `i` from the end sees all keys but `i`.
    fn attention_cost(&self, tokens: usize, keys: usize) -> Cost {
        let Llama4Config { num_attention_heads, num_key_value_heads, head_dim, .. } = *self.config;
        let pairs = tokens * keys - tokens * (tokens - 1) / 2;
        Cost {
            bytes: self.floats(2 * keys * num_key_value_heads * head_dim + 2 * tokens * num_attention_heads * head_dim),
            operations: (4 * pairs * num_attention_heads * head_dim) as f64,
        }
    }

    fn rms_normalize(&self, tokens: usize) -> Call<'a> {
        let (hidden, epsilon) = (self.config.hidden_size, self.config.rms_norm_eps);
        let x = self.random([tokens, hidden]);
        Call {
            cost: Cost { bytes: self.floats(2 * tokens * hidden), operations: (3 * tokens * hidden) as f64 },
            run: Box::new(move |_| drop(rms_normalize(x.clone(), epsilon))),
        }
    }

    fn rotate(&self, tokens: usize) -> Call<'a> {
        let Llama4Config { num_attention_heads, head_dim, .. } = *self.config;
        let x = self.random([tokens, num_attention_heads, head_dim]);
        let positions: Vec<usize> = (0..tokens).collect();
        let table = RotaryTable::<B>::new(&inverse_frequencies(self.config), &positions, self.device);
        let values = tokens * num_attention_heads * head_dim;
        Call {
            // The table is f32, cosine and sine of half a head.
            cost: Cost {
                bytes: self.floats(2 * values) + (4 * tokens * head_dim) as f64,
                operations: (3 * values) as f64,
            },
            run: Box::new(move |_| drop(rotate(x.clone(), &table))),
        }
    }
}

/// Tokens spread evenly over the experts; which of them gets those that are left over changes from call to call.
fn counts(tokens: usize, experts: usize, call: usize) -> Vec<usize> {
    let mut counts = vec![tokens / experts; experts];
    (0..tokens % experts).for_each(|extra| counts[(call + extra) % experts] += 1);
    counts
}

/// Experts of a group whose weight has so many bytes a row, where a tensor may have so many.
fn experts_at_once(config: ExpertsConfig, largest_tensor: Option<u64>, row_bytes: usize) -> usize {
    let bytes = largest_tensor.map_or(usize::MAX, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let elements = config.elements_per_tensor.min((bytes / row_bytes.max(1)).saturating_mul(config.hidden));
    config.with_elements_per_tensor(elements).group_sizes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_experts_as_a_tensor_has_room_for() {
        // Scout's, as floats and in 4 bits.
        let experts = |largest| {
            [4 * 5120, 5120 / 2]
                .map(|row_bytes| experts_at_once(ExpertsConfig::new(5120, 8192, 16), largest, row_bytes))
        };
        assert_eq!(experts(Some(2 << 30)), [6, 16]);
        assert_eq!(experts(Some(128 << 20)), [1, 3]);
        assert_eq!(experts(None), [16, 16]);
    }

    #[test]
    fn every_expert_gets_its_turn() {
        assert_eq!(counts(1, 3, 0), [1, 0, 0]);
        assert_eq!(counts(1, 3, 4), [0, 1, 0]);
        assert_eq!(counts(8, 3, 2), [3, 2, 3]);
    }
}
