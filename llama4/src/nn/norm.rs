use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Tensor};

/// Divide by the root of the mean square over the last axis: `x / sqrt(mean(x²) + ε)`.
///
/// The statistic and the quotient are `f32`, cast back to `x`'s dtype. This is also the whole of Llama 4's QK norm, which has no weight
/// (and is a mean of squares, although the reference calls it an L2 norm).
///
/// # Shapes
/// - x: `[…, width]`
/// - output: same as `x`
pub fn rms_normalize<B: Backend, const D: usize>(x: Tensor<B, D>, epsilon: f64) -> Tensor<B, D> {
    let dtype: FloatDType = x.dtype().into();
    let x = x.cast(FloatDType::F32);
    let mean_square = x.clone().square().mean_dim(D - 1);
    (x / (mean_square + epsilon).sqrt()).cast(dtype)
}

/// Configuration of [`RmsNorm`].
#[derive(Config, Debug)]
pub struct RmsNormConfig {
    /// Width of the last axis.
    pub width: usize,
    /// Added to the mean square, inside the root.
    #[config(default = 1e-5)]
    pub epsilon: f64,
}

impl RmsNormConfig {
    /// A norm whose weight is one.
    pub fn init<B: Backend>(&self, device: &B::Device) -> RmsNorm<B> {
        RmsNorm { weight: Initializer::Ones.init([self.width], device), epsilon: self.epsilon }
    }
}

/// Root-mean-square norm over the last axis: `y = x / sqrt(mean(x²) + ε) · w`.
///
/// The statistic is taken in `f32` and the quotient cast back before the product with `w`, as the reference does; in `bf16` the
/// order shows.
#[derive(Module, Debug)]
pub struct RmsNorm<B: Backend> {
    weight: Param<Tensor<B, 1>>,
    epsilon: f64,
}

impl<B: Backend> RmsNorm<B> {
    /// # Shapes
    /// - x: `[tokens, width]`
    /// - output: `[tokens, width]`, of the type of the weight
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let weight = self.weight.val();
        let dtype: FloatDType = weight.dtype().into();
        rms_normalize(x, self.epsilon).cast(dtype) * weight.unsqueeze()
    }

    /// The weight, `[width]`.
    pub fn weight(&self) -> Tensor<B, 1> {
        self.weight.val()
    }
}
