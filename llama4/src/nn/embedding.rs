use burn::config::Config;
use burn::module::Module;
use burn::nn::Initializer;
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};

use super::projection::linear;
use crate::ops;
use crate::quant::{Rows, Weight};

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
            Weight::Float(weight) => ops::select_rows(weight.val(), ids),
            Weight::Packed(packed) => ops::packed_select(packed, ids),
            Weight::Split(parts) => select_from(parts, &ids),
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

/// Rows looked up in each part, and those kept that the part has.
fn select_from<B: Backend>(parts: &[Rows<B>], ids: &Tensor<B, 1, Int>) -> Tensor<B, 2> {
    let mut first = 0_i64;
    let found = parts.iter().map(|part| {
        let here = ids.clone() - first;
        let last = part.count() as i64 - 1;
        first += part.count() as i64;
        let elsewhere = here.clone().lower_elem(0).bool_or(here.clone().greater_elem(last));
        let here = here.clamp(0, last);
        let rows = match part {
            Rows::Float(weight) => ops::select_rows(weight.val(), here),
            Rows::Packed(packed) => ops::packed_select(packed, here),
        };
        let elsewhere = elsewhere.unsqueeze_dim::<2>(1).expand(rows.dims());
        rows.mask_fill(elsewhere, 0.0)
    });
    let sum = found.reduce(|a, b| a + b);
    sum.expect("a weight that is split has parts")
}
