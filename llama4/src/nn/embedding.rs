use burn::config::Config;
use burn::module::Module;
use burn::nn::Initializer;
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};

use super::projection::linear;
use crate::ops;
use crate::quant::Weight;

/// Configuration of [`TokenEmbedding`].
#[derive(Config, Debug)]
pub struct TokenEmbeddingConfig {
    /// Number of rows, `vocab`.
    pub vocab: usize,
    /// Width of a row, `hidden`.
    pub hidden: usize,
    /// Distribution of fresh rows.
    #[config(default = "Initializer::Normal { mean: 0.0, std: 0.02 }")]
    pub initializer: Initializer,
}

impl TokenEmbeddingConfig {
    /// An embedding with random rows.
    pub fn init<B: Backend>(&self, device: &B::Device) -> TokenEmbedding<B> {
        TokenEmbedding { weight: Weight::Float(self.initializer.init([self.vocab, self.hidden], device)) }
    }
}

/// One row per token, not scaled and without positions: `x = E[ids]`, E `[vocab, hidden]`.
#[derive(Module, Debug)]
pub struct TokenEmbedding<B: Backend> {
    pub(super) weight: Weight<B, 2>,
}

impl<B: Backend> TokenEmbedding<B> {
    /// Rows of a packed embedding are looked up packed; no more than they is ever unpacked.
    ///
    /// # Shapes
    /// - ids: `[tokens]`
    /// - output: `[tokens, hidden]`, of the type of the weight, `f32` where it is packed
    pub fn forward(&self, ids: Tensor<B, 1, Int>) -> Tensor<B, 2> {
        match &self.weight {
            Weight::Float(weight) => weight.val().select(0, ids),
            Weight::Packed(packed) => ops::packed_select(packed, ids),
        }
    }

    /// The embedding used as the head of a model that ties the two: `x Eᵀ`.
    ///
    /// # Shapes
    /// - x: `[tokens, hidden]`
    /// - output: `[tokens, vocab]`
    pub fn logits(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        linear(x, &self.weight)
    }

    /// The rows, `[vocab, hidden]`.
    pub fn weight(&self) -> &Weight<B, 2> {
        &self.weight
    }
}
