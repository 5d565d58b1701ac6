//! How many bytes a model and a context need, from the configuration alone.

use burn::tensor::DType;

use crate::Llama4Config;
use crate::config::KvCacheParams;
use crate::import::{ExpectedTensor, expected_tensors};
use crate::ops::{SCORES_AT_ONCE, UNPACKED_AT_ONCE};
use crate::quant::{Quantization, WeightKind};

/// How a model is to be run, as far as memory is concerned.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryOptions {
    /// Type of the activations, of the cache, and of all weights that are not packed.
    pub dtype: DType,
    /// Type of the floats in files.
    pub stored: DType,
    /// What is packed.
    pub quantization: Option<Quantization>,
    /// Tokens that each sequence has room for.
    pub context: usize,
    /// Sequences that are worked on at once.
    pub batch: usize,
    /// Tokens of a prompt that go through the model at once: [`prefill_piece`](crate::generate::prefill_piece) of the backend.
    pub piece: usize,
}

/// Bytes that a model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Weights in files, as they are packed.
    pub disk: u64,
    /// Weights where the model computes.
    pub weights: u64,
    /// Keys and values of all sequences; chunked layers hold one chunk.
    pub cache: u64,
    /// The largest tensor of the cache.
    pub largest_cache: u64,
    /// Activations and unpacked weights at their most: within one piece of a prompt.
    pub work: u64,
    /// The largest tensor, which is on the host while it is loaded to a device of its own.
    pub largest: u64,
}

impl MemoryEstimate {
    /// All that the model's device has to hold: the host's memory where that is what computes.
    pub fn device(&self) -> u64 {
        sum(&[self.weights, self.cache, self.work])
    }
}

impl Llama4Config {
    /// What running the model takes.
    pub fn memory(&self, options: &MemoryOptions) -> MemoryEstimate {
        let tensors = expected_tensors(self);
        let total = |bytes: &dyn Fn(&ExpectedTensor) -> u64| tensors.iter().map(bytes).fold(0, u64::saturating_add);
        let in_memory = |tensor: &ExpectedTensor| bytes(tensor, options.quantization.as_ref(), options.dtype);
        let groups = groups(self);
        let largest = |tensor: &ExpectedTensor| match tensor.kind {
            WeightKind::Experts => in_memory(tensor) / groups,
            _ => in_memory(tensor),
        };
        let cache = KvCacheParams {
            num_layers: self.num_hidden_layers,
            n_kv_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            dtype: options.dtype,
            max_seq_len: options.context,
            max_batch_size: options.batch,
            windows: (0..self.num_hidden_layers).map(|layer| self.chunk_size(layer)).collect(),
        };
        MemoryEstimate {
            disk: total(&|tensor| bytes(tensor, options.quantization.as_ref(), options.stored)),
            weights: total(&in_memory),
            cache: cache.bytes(),
            largest_cache: cache.largest_tensor(),
            work: self.work(options),
            largest: tensors.iter().map(largest).max().unwrap_or(0),
        }
    }

    /// The most that is held besides weights and cache: what one layer makes of a piece of the prompt. Sizes beyond any real model
    /// saturate.
    fn work(&self, options: &MemoryOptions) -> u64 {
        let size = options.dtype.size();
        let tokens = options.context.saturating_mul(options.batch).clamp(1, options.piece.max(1));
        let context = options.context;
        let hidden = self.hidden_size;
        let heads = self.num_attention_heads;
        let queries = product(&[tokens, heads, context]);
        // Scores before and after the softmax, and the mask applied; keys and values laid out for the product.
        let scores = 3 * 4 * queries.min(SCORES_AT_ONCE as u64);
        let keys = product(&[size, 2, self.num_key_value_heads, self.head_dim, context]);
        let attention = sum(&[scores, keys, product(&[size, 4, tokens, heads, self.head_dim])]);
        let width = if self.moe_layers.is_empty() { self.intermediate_size_mlp } else { self.intermediate_size };
        let dense = if self.moe_layers.len() < self.num_hidden_layers { self.intermediate_size_mlp } else { 0 };
        let width = width.max(dense);
        let feed_forward = sum(&[product(&[size, tokens, 4, width]), product(&[size, tokens, 3, hidden])]);
        // A band of a packed weight as floats, and the copy that the product makes of it.
        let unpacked = match options.quantization {
            Some(_) => 2 * 4 * product(&[hidden, width]).min(UNPACKED_AT_ONCE as u64),
            None => 0,
        };
        let logits = product(&[4, 2, options.batch, self.vocab_size]);
        sum(&[product(&[size, 4, tokens, hidden]), attention.max(feed_forward.saturating_add(unpacked)), logits])
    }
}

fn product(factors: &[usize]) -> u64 {
    factors.iter().fold(1, |product: u64, &factor| product.saturating_mul(factor as u64))
}

fn sum(parts: &[u64]) -> u64 {
    parts.iter().copied().fold(0, u64::saturating_add)
}

/// Bytes of a parameter whose floats are of type `dtype`.
fn bytes(tensor: &ExpectedTensor, quantization: Option<&Quantization>, dtype: DType) -> u64 {
    let [count, output, input] = tensor.matrices();
    let rows = product(&[count, output]);
    let packing = quantization.and_then(|quantization| quantization.storage(tensor.kind, input, dtype));
    match packing {
        Some(packing) => rows.saturating_mul(packing.row_bytes(input) as u64),
        None => rows.saturating_mul(input as u64).saturating_mul(dtype.size() as u64),
    }
}

/// Tensors that a layer's experts are held in.
fn groups(config: &Llama4Config) -> u64 {
    if config.moe_layers.is_empty() {
        return 1;
    }
    crate::nn::moe::ExpertsConfig::new(config.hidden_size, config.intermediate_size, config.num_local_experts)
        .group_sizes()
        .len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(quantization: Option<Quantization>) -> MemoryOptions {
        MemoryOptions { dtype: DType::BF16, stored: DType::BF16, quantization, context: 131_072, batch: 1, piece: 512 }
    }

    #[test]
    fn scout_takes_what_its_parameters_take() {
        let estimate = Llama4Config::scout().memory(&options(None));
        assert_eq!(estimate.weights, 2 * Llama4Config::scout().parameter_count().total());
        assert_eq!(estimate.disk, estimate.weights);
        // 7.125 GiB at this length, chunked layers at one chunk.
        assert_eq!(estimate.cache, 57 << 27);
        // A layer without chunks: 131,072 positions of 8 heads of 128, two bytes each.
        assert_eq!(estimate.largest_cache, 131_072 * 8 * 128 * 2);
        assert!(estimate.work < 2 << 30, "{}", estimate.work);
    }

    #[test]
    fn four_bits_take_four_and_a_half() {
        let config = Llama4Config::scout();
        let count = config.parameter_count();
        let estimate = config.memory(&options(Some(Quantization::q4())));
        let packed = count.total() - count.embedding - count.head - count.norms - count.routers;
        let expected = packed / 32 * 18 + count.head / 32 * 34 + 2 * (count.embedding + count.norms + count.routers);
        assert_eq!(estimate.weights, expected);
    }

    #[test]
    fn sizes_beyond_any_real_model_saturate() {
        let largest = i32::MAX as usize;
        let mut config = Llama4Config::tiny_dense_and_moe();
        (config.hidden_size, config.vocab_size, config.intermediate_size_mlp) = (largest, largest, largest);
        (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (largest, largest, largest - 1);
        config.intermediate_size = largest;
        config.validate().unwrap();
        for quantization in [None, Some(Quantization::q4())] {
            let estimate =
                config.memory(&MemoryOptions { context: usize::MAX, batch: usize::MAX, ..options(quantization) });
            assert_eq!((estimate.work, estimate.cache, estimate.device()), (u64::MAX, u64::MAX, u64::MAX));
        }
    }
}
