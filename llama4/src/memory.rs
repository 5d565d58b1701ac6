//! How many bytes a model and a context need, from the configuration alone.

use burn::tensor::DType;

use crate::Llama4Config;
use crate::config::KvCacheParams;
use crate::generate::PREFILL_PIECE;
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
    /// Activations and unpacked weights at their most: within one piece of a prompt.
    pub work: u64,
    /// The largest tensor, which is on the host while it is loaded to a device of its own.
    pub largest: u64,
}

impl MemoryEstimate {
    /// All that the model's device has to hold: the host's memory where that is what computes.
    pub fn device(&self) -> u64 {
        [self.weights, self.cache, self.work].into_iter().fold(0, u64::saturating_add)
    }
}

impl Llama4Config {
    /// What running the model takes.
    pub fn memory(&self, options: &MemoryOptions) -> MemoryEstimate {
        let tensors = expected_tensors(self);
        let sum = |bytes: &dyn Fn(&ExpectedTensor) -> u64| tensors.iter().map(bytes).fold(0, u64::saturating_add);
        let in_memory = |tensor: &ExpectedTensor| bytes(tensor, options.quantization.as_ref(), options.dtype);
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
            disk: sum(&|tensor| bytes(tensor, options.quantization.as_ref(), options.stored)),
            weights: sum(&in_memory),
            cache: cache.bytes(),
            work: self.work(options),
            largest: tensors.iter().map(|tensor| in_memory(tensor) / groups(self, tensor)).max().unwrap_or(0),
        }
    }

    /// The most that is held besides weights and cache: what one layer makes of a piece of the prompt.
    fn work(&self, options: &MemoryOptions) -> u64 {
        let size = options.dtype.size() as u64;
        let tokens = (options.context * options.batch).clamp(1, PREFILL_PIECE) as u64;
        let context = options.context as u64;
        let hidden = self.hidden_size as u64;
        let heads = (self.num_attention_heads * self.head_dim) as u64;
        let kv_heads = (self.num_key_value_heads * self.head_dim) as u64;
        let queries = (tokens * self.num_attention_heads as u64).saturating_mul(context);
        // Scores before and after the softmax, and the mask applied; keys and values laid out for the product.
        let attention =
            (3 * 4 * queries.min(SCORES_AT_ONCE as u64)) + size * (2 * kv_heads * context + 4 * tokens * heads);
        let width = if self.moe_layers.is_empty() { self.intermediate_size_mlp } else { self.intermediate_size } as u64;
        let dense = if self.moe_layers.len() < self.num_hidden_layers { self.intermediate_size_mlp as u64 } else { 0 };
        let feed_forward = size * tokens * (4 * width.max(dense) + 3 * hidden);
        // A band of a packed weight as floats, and the copy that the product makes of it.
        let unpacked = match options.quantization {
            Some(_) => 2 * 4 * (UNPACKED_AT_ONCE as u64).min(hidden * width.max(dense)),
            None => 0,
        };
        let logits = 4 * 2 * (options.batch * self.vocab_size) as u64;
        size * 4 * tokens * hidden + attention.max(feed_forward + unpacked) + logits
    }
}

/// Bytes of a parameter whose floats are of type `dtype`.
fn bytes(tensor: &ExpectedTensor, quantization: Option<&Quantization>, dtype: DType) -> u64 {
    let [count, output, input] = tensor.matrices();
    let rows = (count * output) as u64;
    let packing = quantization.and_then(|quantization| quantization.storage(tensor.kind, input, dtype));
    match packing {
        Some(packing) => rows.saturating_mul(packing.row_bytes(input) as u64),
        None => rows.saturating_mul(input as u64).saturating_mul(dtype.size() as u64),
    }
}

/// Tensors that a parameter is held in.
fn groups(config: &Llama4Config, tensor: &ExpectedTensor) -> u64 {
    match tensor.kind {
        WeightKind::Experts => {
            crate::nn::moe::ExpertsConfig::new(config.hidden_size, config.intermediate_size, config.num_local_experts)
                .group_sizes()
                .len() as u64
        }
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(quantization: Option<Quantization>) -> MemoryOptions {
        MemoryOptions { dtype: DType::BF16, stored: DType::BF16, quantization, context: 131_072, batch: 1 }
    }

    #[test]
    fn scout_takes_what_its_parameters_take() {
        let estimate = Llama4Config::scout().memory(&options(None));
        assert_eq!(estimate.weights, 2 * Llama4Config::scout().parameter_count().total());
        assert_eq!(estimate.disk, estimate.weights);
        // 7.125 GiB at this length, chunked layers at one chunk.
        assert_eq!(estimate.cache, 57 << 27);
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
}
