use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Tensor};

use super::LoraAdapter;
use crate::ops;
use crate::quant::{PackedTensor, Rows, Weight};

/// Configuration of [`Projection`].
#[derive(Config, Debug)]
pub struct ProjectionConfig {
    /// Width of the input, `in`.
    pub input: usize,
    /// Width of the output, `out`.
    pub output: usize,
    /// Whether a bias is added.
    #[config(default = false)]
    pub bias: bool,
    /// Distribution of a fresh weight.
    #[config(default = "Initializer::Normal { mean: 0.0, std: 0.02 }")]
    pub initializer: Initializer,
}

impl ProjectionConfig {
    /// A projection with random weight and zero bias.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Projection<B> {
        Projection {
            weight: Weight::Float(self.initializer.init([self.output, self.input], device)),
            bias: self.bias.then(|| Initializer::Zeros.init([self.output], device)),
            lora: None,
        }
    }
}

/// Linear map with the checkpoint's orientation: `y = x Wᵀ + b`, W `[out, in]`; plus what a [`LoraAdapter`] adds.
///
/// Not burn's `Linear`, which holds `[in, out]`: here one output is one contiguous row, which is what decoding, block
/// quantisation along `in` and the files on disk have in common.
#[derive(Module, Debug)]
pub struct Projection<B: Backend> {
    pub(super) weight: Weight<B, 2>,
    bias: Option<Param<Tensor<B, 1>>>,
    /// What fine-tuning adds, where there is any.
    pub(super) lora: Option<LoraAdapter<B>>,
}

impl<B: Backend> Projection<B> {
    /// # Shapes
    /// - x: `[tokens, in]`
    /// - output: `[tokens, out]`
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let dtype = x.dtype().into();
        self.forward_into(x, dtype)
    }

    /// The same, its sums of type `dtype`: that of `x`, or `F32`.
    pub(super) fn forward_into(&self, x: Tensor<B, 2>, dtype: FloatDType) -> Tensor<B, 2> {
        let adapted = self.lora.as_ref().map(|lora| lora.forward(x.clone().cast(dtype)));
        let y = linear_into(x, &self.weight, dtype);
        let y = match &self.bias {
            Some(bias) => y + bias.val().unsqueeze(),
            None => y,
        };
        match adapted {
            Some(adapted) => y + adapted,
            None => y,
        }
    }

    /// `[out, in]`, without drawing a fresh weight.
    pub(super) fn dims(&self) -> [usize; 2] {
        match &self.weight {
            Weight::Float(weight) => weight.lazy_shape().dims(),
            Weight::Packed(packed) => [packed.rows(), packed.columns()],
            Weight::Split(parts) => [parts.iter().map(Rows::count).sum(), self.weight.columns()],
        }
    }

    pub(crate) fn weight_mut(&mut self) -> &mut Weight<B, 2> {
        &mut self.weight
    }

    /// The packed weight, if that is all there is to the projection.
    pub(super) fn packed_alone(&self) -> Option<&PackedTensor<B>> {
        if self.bias.is_some() || self.lora.is_some() { None } else { self.weight.packed() }
    }

    /// The adapter, if there is one.
    pub fn lora(&self) -> Option<&LoraAdapter<B>> {
        self.lora.as_ref()
    }

    /// The weight, `[out, in]`.
    pub fn weight(&self) -> &Weight<B, 2> {
        &self.weight
    }
}

/// `x Wᵀ`, whatever the weight is.
pub(super) fn linear<B: Backend>(x: Tensor<B, 2>, weight: &Weight<B, 2>) -> Tensor<B, 2> {
    let dtype = x.dtype().into();
    linear_into(x, weight, dtype)
}

fn linear_into<B: Backend>(x: Tensor<B, 2>, weight: &Weight<B, 2>, dtype: FloatDType) -> Tensor<B, 2> {
    match weight {
        Weight::Float(weight) => ops::linear_into(x, weight.val(), dtype),
        Weight::Packed(packed) => ops::packed_linear_into(x, packed, dtype),
        Weight::Split(parts) => {
            let part = |rows: &Rows<B>| match rows {
                Rows::Float(weight) => ops::linear_into(x.clone(), weight.val(), dtype),
                Rows::Packed(packed) => ops::packed_linear_into(x.clone(), packed, dtype),
            };
            Tensor::cat(parts.iter().map(part).collect(), 1)
        }
    }
}
