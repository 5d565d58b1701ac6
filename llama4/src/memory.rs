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
    /// The largest page that the device's memory is given out in, where CubeCL does that and this crate's kernels compute: cache and activations
    /// then take whole pages.
    pub max_page: Option<u64>,
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
    /// Activations and unpacked weights at their most, within one piece of a prompt; and what the pages that these and the cache are in have
    /// beyond that.
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
        let work = self.work(options);
        let pages = options.max_page.map_or(0, |max_page| reserved(&cache, &work, max_page));
        MemoryEstimate {
            disk: total(&|tensor| bytes(tensor, options.quantization.as_ref(), options.stored)),
            weights: total(&in_memory),
            cache: cache.bytes(),
            largest_cache: cache.largest_tensor(),
            work: work.bytes.max(pages.saturating_sub(cache.bytes())),
            largest: tensors.iter().map(largest).max().unwrap_or(0),
        }
    }

    /// The most that is held besides weights and cache: what one layer makes of a piece of the prompt. Sizes beyond any real model
    /// saturate.
    fn work(&self, options: &MemoryOptions) -> Work {
        let size = options.dtype.size();
        let tokens = options.context.saturating_mul(options.batch).clamp(1, options.piece.max(1));
        let context = options.context;
        let hidden = self.hidden_size;
        let heads = self.num_attention_heads;
        let kernels = options.max_page.is_some();
        let width = if self.moe_layers.is_empty() { self.intermediate_size_mlp } else { self.intermediate_size };
        let dense = if self.moe_layers.len() < self.num_hidden_layers { self.intermediate_size_mlp } else { 0 };
        let width = width.max(dense);
        let mut attention = product(&[size, 4, tokens, heads, self.head_dim]);
        let mut feed_forward = sum(&[product(&[size, tokens, 4, width]), product(&[size, tokens, 3, hidden])]);
        if !kernels {
            // Scores before and after the softmax, and the mask applied; keys and values laid out for the product.
            let scores = 3 * 4 * product(&[tokens, heads, context]).min(SCORES_AT_ONCE as u64);
            let keys = product(&[size, 2, self.num_key_value_heads, self.head_dim, context]);
            attention = sum(&[attention, scores, keys]);
            if options.quantization.is_some() {
                // A band of a packed weight as floats, and the copy that the product makes of it.
                let band = 2 * 4 * product(&[hidden, width]).min(UNPACKED_AT_ONCE as u64);
                feed_forward = feed_forward.saturating_add(band);
            }
        }
        let logits = product(&[4, 2, options.batch, self.vocab_size]);
        let stream = product(&[size, 4, tokens, hidden]);
        Work {
            bytes: sum(&[stream, attention.max(feed_forward), logits]),
            // Gate and up together, or the residual stream, which may be wider than the activations.
            largest: product(&[size, tokens, 2, width]).max(product(&[4, tokens, hidden])).max(logits / 2),
        }
    }
}

/// What is held besides weights and cache.
struct Work {
    bytes: u64,
    /// Of its largest tensor.
    largest: u64,
}

/// Pages of one size.
struct Pages {
    bytes: u64,
    /// The largest tensor that goes to one.
    most: u64,
}

impl Pages {
    /// Those of CubeCL's pools (`MemoryConfiguration::SubSlices`), smallest first: each a quarter of the next, and the smaller, the more tensors
    /// have to fit.
    fn all(max_page: u64) -> Vec<Self> {
        const SMALLEST: u64 = 32 << 20;
        let mut all = vec![Self { bytes: max_page, most: max_page }];
        let mut bytes = max_page;
        let mut halvings = 1;
        while bytes >= SMALLEST {
            bytes /= 4;
            all.push(Self { bytes, most: bytes >> halvings });
            halvings += 1;
        }
        all.reverse();
        all
    }

    /// Bytes of as many as hold so much.
    fn holding(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.bytes.max(1)).saturating_mul(self.bytes)
    }
}

/// Bytes of the pages that cache and work are in.
fn reserved(cache: &KvCacheParams, work: &Work, max_page: u64) -> u64 {
    let pages = Pages::all(max_page);
    let fitting = |bytes: u64| pages.iter().position(|pages| pages.most >= bytes).unwrap_or(pages.len() - 1);
    let mut held = vec![0_u64; pages.len()];
    for tensor in cache.tensors() {
        let held = &mut held[fitting(tensor)];
        *held = sum(&[*held, tensor, tensor]);
    }
    // Most of the work may be in the pages of its largest tensors or in those a size below; of all that are smaller there is one.
    let largest = fitting(work.largest);
    for (index, held) in held.iter_mut().enumerate().take(largest + 1) {
        let beside = if index + 1 >= largest { work.bytes } else { 1 };
        *held = held.saturating_add(beside);
    }
    pages.iter().zip(held).map(|(pages, held)| pages.holding(held)).fold(0, u64::saturating_add)
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
    use crate::quant::Packing;

    fn options(quantization: Option<Quantization>) -> MemoryOptions {
        MemoryOptions {
            dtype: DType::BF16,
            stored: DType::BF16,
            quantization,
            context: 131_072,
            batch: 1,
            piece: 512,
            max_page: None,
        }
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
        for (quantization, max_page) in [(None, None), (Some(Quantization::q4()), None), (None, Some(1 << 32))] {
            let options = MemoryOptions { context: usize::MAX, batch: usize::MAX, max_page, ..options(quantization) };
            let estimate = config.memory(&options);
            assert_eq!((estimate.cache, estimate.device()), (u64::MAX, u64::MAX));
            assert!(max_page.is_some() || estimate.work == u64::MAX);
        }
    }

    /// What CubeCL's pools held on a device of 140.4 GiB: `llama4-bench/runs/2026-12-01-h200`. They also held pages of a prompt of 2048 that
    /// the process had worked on before, of some 147 MB each.
    #[test]
    fn pages_are_those_that_were_measured() {
        let all_in_four_bits = Quantization { head: Packing::Q4, embedding: Packing::Q4, ..Quantization::q4() };
        for (layers, context, measured, kept) in [
            (8, 2048, 11_948_047_360_u64, 0),
            (8, 8192, 14_940_000_000, 1),
            (48, 2048, 61_794_000_000, 0),
            (48, 8192, 65_959_000_000, 3),
            (48, 131_072, 70_650_000_000, 3),
        ] {
            let device = (140.4 * f64::from(1 << 30)) as u64;
            let options =
                MemoryOptions { context, piece: 4096, max_page: Some(device / 4), ..options(Some(all_in_four_bits)) };
            let estimate = Llama4Config::scout().with_layers(layers).unwrap().memory(&options).device();
            let kept = kept * device / 4 / 256;
            let (least, most) = (0.995 * (measured - kept) as f64, 1.02 * (measured - kept) as f64);
            assert!((least..most).contains(&(estimate as f64)), "{layers} layers, {context}: {estimate}");
        }
    }
}
