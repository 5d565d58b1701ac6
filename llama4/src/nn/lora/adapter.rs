use burn::module::{Module, Param};
use burn::nn::{Dropout, Initializer};
use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Tensor};

use super::LoraConfig;
use crate::ops;

/// What an adapted [`Projection`](crate::nn::Projection) adds to its output: `scale · B (A x)`, A `[r, in]`, B `[out, r]`.
///
/// Both are of the backend's own float type, whatever type the model runs in: training in `bf16` would round small steps away.
#[derive(Module, Debug)]
pub struct LoraAdapter<B: Backend> {
    lora_a: Param<Tensor<B, 2>>,
    lora_b: Param<Tensor<B, 2>>,
    scale: f64,
    dropout: f64,
}

impl<B: Backend> LoraAdapter<B> {
    /// A fresh adapter, which changes nothing: A uniform within `±1 / √in` (as PEFT draws it), B zero.
    pub fn new(config: &LoraConfig, input: usize, output: usize, device: &B::Device) -> Self {
        // Kaiming's bound is √3 · gain / √in.
        let kaiming = Initializer::KaimingUniform { gain: 1.0 / 3.0_f64.sqrt(), fan_out_only: false };
        Self {
            lora_a: kaiming.init_with([config.rank, input], Some(input), None, device),
            lora_b: Initializer::Zeros.init([output, config.rank], device),
            scale: config.scale(),
            dropout: config.dropout,
        }
    }

    /// Put values in the place of the fresh ones.
    pub(crate) fn fill(&mut self, a: Tensor<B, 2>, b: Tensor<B, 2>) {
        self.lora_a = Param::from_tensor(a);
        self.lora_b = Param::from_tensor(b);
    }

    /// Shapes of A and B, without drawing them.
    pub(crate) fn shapes(&self) -> [[usize; 2]; 2] {
        [self.lora_a.lazy_shape().dims(), self.lora_b.lazy_shape().dims()]
    }

    /// # Shapes
    /// - x: `[tokens, in]`
    /// - output: `[tokens, out]`, of the type of `x`
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let dtype: FloatDType = x.dtype().into();
        let (a, b) = (self.lora_a.val(), self.lora_b.val());
        let own: FloatDType = a.dtype().into();
        let x = Dropout { prob: self.dropout }.forward(x.cast(own));
        (ops::linear(ops::linear(x, a), b) * self.scale).cast(dtype)
    }

    /// What the adapter adds to the weight: `scale · B A`, `[out, in]`.
    pub fn delta(&self) -> Tensor<B, 2> {
        ops::product(self.lora_b.val(), self.lora_a.val()) * self.scale
    }

    /// A, `[r, in]`.
    pub fn a(&self) -> Tensor<B, 2> {
        self.lora_a.val()
    }

    /// B, `[out, r]`.
    pub fn b(&self) -> Tensor<B, 2> {
        self.lora_b.val()
    }
}

#[cfg(all(test, feature = "ndarray"))]
mod tests {
    use burn_ndarray::NdArray;

    use super::*;

    #[test]
    fn a_fresh_adapter_is_drawn_as_peft_draws_it() {
        let adapter = LoraAdapter::<NdArray>::new(&LoraConfig::new().with_rank(64), 400, 7, &Default::default());
        assert_eq!((adapter.a().dims(), adapter.b().dims()), ([64, 400], [7, 64]));
        assert!(adapter.b().into_data().iter::<f32>().all(|value| value == 0.0));
        let values: Vec<f32> = adapter.a().into_data().iter().collect();
        let largest = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        assert!((0.0499..=0.05).contains(&largest), "{largest}");
        let variance = values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
        assert!((variance / (0.05 * 0.05 / 3.0) - 1.0).abs() < 0.05, "{variance}");
    }
}
