use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::ops;
pub use crate::ops::rms_normalize;

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
        ops::rms_norm(x, self.weight.val(), self.epsilon)
    }

    /// The norm as part of an operation that begins with it.
    pub(super) fn of_input(&self) -> ops::InputNorm<B> {
        ops::InputNorm { weight: self.weight.val(), epsilon: self.epsilon }
    }

    /// The weight, `[width]`.
    pub fn weight(&self) -> Tensor<B, 1> {
        self.weight.val()
    }
}
