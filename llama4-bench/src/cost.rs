//! What work must cost, from the configuration alone.
//!
//! A pass of `n` new tokens reads, once:
//!
//! - every projection, norm and router, in the form in which it is held (packed words with their scales, or floats);
//! - of the experts those that are chosen: of `E` with `k` a token, `E (1 - (1 - k / E)^n)`, as many as differ on average where tokens are spread
//!   evenly (for one token exactly `k`);
//! - the head, where logits are wanted, and `n` rows of the embedding;
//! - the keys and values that the first new token of each sequence finds cached: all before it, or those of its chunk.
//!
//! It writes the keys and values of the new tokens. Activations are not counted: they can stay in caches. It computes two operations for each
//! weight and token (the head: for each sequence), and four for each query head, channel and pair of query and visible key.

use burn::tensor::DType;
use llama4::Llama4Config;
use llama4::import::{ExpectedTensor, expected_tensors};
use llama4::quant::{Quantization, WeightKind};
use serde::{Deserialize, Serialize};

/// Bytes moved and operations computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Bytes read or written.
    pub(crate) bytes: f64,
    /// Additions and multiplications.
    pub(crate) operations: f64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.operations += other.operations;
    }
}

/// The new tokens of a sequence: how many come before them, and how many they are.
#[derive(Debug, Clone, Copy)]
struct Span {
    past: usize,
    len: usize,
}

/// A model as far as its cost is concerned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work<'a> {
    pub(crate) config: &'a Llama4Config,
    /// Type of activations, cache and weights that are not packed.
    pub(crate) dtype: DType,
    pub(crate) quantization: Option<Quantization>,
    /// Tokens of a prompt that go through the model at once.
    pub(crate) piece: usize,
}

impl Work<'_> {
    /// A prompt that goes through the model piece by piece; logits of its last token.
    pub(crate) fn prefill(&self, tokens: usize) -> Cost {
        let mut cost = Cost::default();
        for past in (0..tokens).step_by(self.piece) {
            let len = self.piece.min(tokens - past);
            cost += self.pass(&[Span { past, len }], past + len == tokens);
        }
        cost
    }

    /// Sequences that hold `depth` tokens and generate `tokens` more, one a pass.
    pub(crate) fn decode(&self, sequences: usize, depth: usize, tokens: usize) -> Cost {
        let mut cost = Cost::default();
        for past in depth..depth + tokens {
            cost += self.pass(&vec![Span { past, len: 1 }; sequences], true);
        }
        cost
    }

    /// Bytes of rows of a weight as the model holds it.
    pub(crate) fn bytes(&self, kind: WeightKind, rows: usize, columns: usize) -> f64 {
        let packing = self.quantization.and_then(|quantization| quantization.storage(kind, columns, self.dtype));
        let row = packing.map_or(columns * self.dtype.size(), |packing| packing.row_bytes(columns));
        rows as f64 * row as f64
    }

    fn pass(&self, spans: &[Span], logits: bool) -> Cost {
        let tokens: usize = spans.iter().map(|span| span.len).sum();
        let mut cost = Cost::default();
        for tensor in expected_tensors(self.config) {
            cost += self.weight(&tensor, tokens, if logits { spans.len() } else { 0 });
        }
        for layer in 0..self.config.num_hidden_layers {
            spans.iter().for_each(|span| cost += self.attention(*span, self.config.chunk_size(layer)));
        }
        cost
    }

    fn weight(&self, tensor: &ExpectedTensor, tokens: usize, logits: usize) -> Cost {
        let [count, rows, columns] = tensor.matrices();
        let whole = self.bytes(tensor.kind, count * rows, columns);
        let products = 2.0 * (rows * columns) as f64;
        let head =
            if logits > 0 { Cost { bytes: whole, operations: products * logits as f64 } } else { Cost::default() };
        match tensor.kind {
            WeightKind::Embedding => {
                let mut cost = Cost { bytes: self.bytes(tensor.kind, tokens, columns), operations: 0.0 };
                if self.config.tie_word_embeddings {
                    cost += head;
                }
                cost
            }
            WeightKind::Head => head,
            WeightKind::Projection => Cost { bytes: whole, operations: products * tokens as f64 },
            WeightKind::Experts => {
                let chosen = self.config.num_experts_per_tok as f64;
                let read = count as f64 * (1.0 - (1.0 - chosen / count as f64).powi(tokens as i32));
                Cost { bytes: whole * read / count as f64, operations: products * chosen * tokens as f64 }
            }
            // Norms and biases are vectors: one row, whose operations do not count beside the products.
            WeightKind::Float if rows == 1 => Cost { bytes: whole, operations: 0.0 },
            WeightKind::Float => Cost { bytes: whole, operations: products * tokens as f64 },
        }
    }

    fn attention(&self, span: Span, chunk: Option<usize>) -> Cost {
        let Llama4Config { num_attention_heads, num_key_value_heads, head_dim, .. } = self.config;
        let slot = |position: usize| chunk.map_or(position, |chunk| position % chunk);
        let visible: usize = (span.past..span.past + span.len).map(|position| slot(position) + 1).sum();
        let moved = slot(span.past) + span.len;
        Cost {
            bytes: (2 * moved * num_key_value_heads * head_dim * self.dtype.size()) as f64,
            operations: (4 * visible * num_attention_heads * head_dim) as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use llama4::quant::Packing;

    use super::*;

    fn work(config: &Llama4Config, packing: Option<Packing>) -> Work<'_> {
        Work { config, dtype: DType::F32, quantization: packing.map(Quantization::uniform), piece: 512 }
    }

    #[track_caller]
    fn assert_near(found: f64, expected: f64, tolerance: f64) {
        assert!((found / expected - 1.0).abs() < tolerance, "{found:e} for {expected:e}");
    }

    #[test]
    fn a_token_reads_what_llama_cpp_was_measured_to() {
        // GB a token of the model for CPUs, with llama.cpp: shared/peers/llamacpp.md.
        let cpu = Llama4Config::cpu();
        for (packing, gigabytes) in
            [(None, 1.105), (Some(Packing::F16), 0.553), (Some(Packing::Q8), 0.294), (Some(Packing::Q4), 0.156)]
        {
            assert_near(work(&cpu, packing).decode(1, 0, 1).bytes / 1e9, gigabytes, 0.005);
        }
        let scout = Llama4Config::scout();
        let gigabytes = |config| work(config, Some(Packing::Q4)).decode(1, 0, 1).bytes / 1e9;
        assert_near(gigabytes(&scout), 9.09, 0.002);
        assert_near(gigabytes(&scout.clone().with_layers(8).unwrap()), 2.00, 0.002);
    }

    #[test]
    fn a_prompt_computes_what_llama_cpp_was_measured_to() {
        // 0.503 GFLOP a token at 512 tokens, 30.2 GFLOP for Scout.
        let (cpu, scout) = (Llama4Config::cpu(), Llama4Config::scout());
        assert_near(work(&cpu, None).prefill(512).operations / 512e9, 0.503, 0.002);
        assert_near(work(&scout, None).prefill(512).operations / 512e9, 30.2, 0.01);
    }

    #[test]
    fn chunked_layers_read_their_chunk_alone() {
        // Layers 0 and 2 have chunks of 4, the others see everything; 2 kv heads of 8 in 4 bytes, keys and values.
        let config = Llama4Config::tiny_chunked();
        let at = |depth| work(&config, None).decode(1, depth, 1).bytes;
        let slot = f64::from(2 * 2 * 8 * 4);
        assert_eq!(at(3) - at(0), 4.0 * 3.0 * slot);
        assert_eq!(at(4) - at(0), 2.0 * 4.0 * slot);
        assert_eq!(at(6) - at(4), 4.0 * 2.0 * slot);
    }

    #[test]
    fn sequences_together_read_the_weights_once() {
        let config = Llama4Config::tiny_dense();
        let work = work(&config, None);
        let (one, eight) = (work.decode(1, 0, 1), work.decode(8, 0, 1));
        assert_eq!(eight.operations, 8.0 * one.operations);
        // A row of the embedding, and a key and a value for each layer.
        let each = f64::from(32 * 4 + 4 * 2 * 2 * 8 * 4);
        assert_eq!(eight.bytes - one.bytes, 7.0 * each);
    }

    #[test]
    fn experts_are_read_as_they_are_chosen() {
        let config = Llama4Config::tiny_moe();
        let experts = |tokens| {
            let tensors = expected_tensors(&config);
            let tensor = tensors.iter().find(|tensor| tensor.kind == WeightKind::Experts).unwrap();
            work(&config, None).weight(tensor, tokens, 0).bytes / f64::from(4 * 2 * 48 * 32)
        };
        assert_eq!(experts(1), 1.0);
        assert_eq!(experts(2), 1.75);
        assert_near(experts(500), 4.0, 1e-6);
    }
}
