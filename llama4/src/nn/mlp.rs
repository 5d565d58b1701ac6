use burn::config::Config;
use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::residual::residual_dtype;
use super::{Projection, ProjectionConfig};
use crate::ops;

/// Configuration of [`Mlp`].
#[derive(Config, Debug)]
pub struct MlpConfig {
    /// Width of input and output.
    pub hidden: usize,
    /// Width in between.
    pub intermediate: usize,
}

impl MlpConfig {
    /// An MLP with random weights.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Mlp<B> {
        let up = ProjectionConfig::new(self.hidden, self.intermediate);
        Mlp {
            gate_proj: up.init(device),
            up_proj: up.init(device),
            down_proj: ProjectionConfig::new(self.intermediate, self.hidden).init(device),
        }
    }
}

/// SwiGLU: `y = W_down (silu(W_gate x) · W_up x)`. Both the dense feed-forward and the shared expert.
#[derive(Module, Debug)]
pub struct Mlp<B: Backend> {
    pub(super) gate_proj: Projection<B>,
    pub(super) up_proj: Projection<B>,
    pub(super) down_proj: Projection<B>,
}

impl<B: Backend> Mlp<B> {
    /// # Shapes
    /// - x: `[tokens, hidden]`
    /// - output: `[tokens, hidden]`, of the type of the residual stream
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let gate = self.gate_proj.forward(x.clone());
        let up = self.up_proj.forward(x);
        let gated = ops::swiglu(gate, up);
        let dtype = residual_dtype(gated.dtype());
        self.down_proj.forward_into(gated, dtype)
    }
}
