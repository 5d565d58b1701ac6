//! Mixture of experts: a sigmoid router, routed experts and one shared expert.

mod experts;
mod router;

pub(crate) use experts::ELEMENTS_PER_TENSOR;
pub(crate) use experts::ExpertGroupRecord;
pub use experts::{ExpertGroup, Experts, ExpertsConfig};
pub use router::{Router, RouterConfig, Routing};

use burn::config::Config;
use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::{Mlp, MlpConfig};
use crate::ops;

/// Configuration of [`Moe`].
#[derive(Config, Debug)]
pub struct MoeConfig {
    /// Width of input and output.
    pub hidden: usize,
    /// Width of each routed expert and of the shared one.
    pub intermediate: usize,
    /// Routed experts.
    pub experts: usize,
    /// Experts that each token is sent to.
    pub top_k: usize,
}

impl MoeConfig {
    /// A layer with random weights.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Moe<B> {
        Moe {
            router: RouterConfig::new(self.hidden, self.experts, self.top_k).init(device),
            experts: ExpertsConfig::new(self.hidden, self.intermediate, self.experts).init(device),
            shared_expert: MlpConfig::new(self.hidden, self.intermediate).init(device),
            every_expert: false,
        }
    }
}

/// Mixture of experts: `y = Shared(x) + Σ Expert_e(s_e · x)` over the chosen experts.
///
/// The score is on the expert's *input*, inside the nonlinearity, not a weight on its output.
#[derive(Module, Debug)]
pub struct Moe<B: Backend> {
    pub(in crate::nn) router: Router<B>,
    pub(in crate::nn) experts: Experts<B>,
    pub(in crate::nn) shared_expert: Mlp<B>,
    /// Run every expert on all tokens.
    every_expert: bool,
}

impl<B: Backend> Moe<B> {
    /// Run every expert on all tokens ([`Experts::forward_all`]), or each only for the tokens that chose it.
    pub fn with_every_expert(mut self, every_expert: bool) -> Self {
        self.every_expert = every_expert;
        self
    }

    /// The layer's output, and the router's choice.
    ///
    /// # Shapes
    /// - x: `[tokens, hidden]`
    /// - output: `[tokens, hidden]`, of the type of the residual stream
    pub fn forward(&self, x: Tensor<B, 2>) -> (Tensor<B, 2>, Routing<B>) {
        let (routing, shared) = self.router.forward_during(x.clone(), || self.shared_expert.forward(x.clone()));
        let routed = match self.every_expert {
            true => self.experts.forward_all(x, &routing),
            false => self.experts.forward(x, &routing),
        };
        (shared + routed, routing)
    }

    /// The layer's output alone, for which a device need not tell the host what the router chose.
    pub(in crate::nn) fn output(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        // A token alone is quicker in the product of one row, for which the host has to know its expert.
        let alone = x.dims()[0] == 1;
        if alone || self.every_expert || !self.router.chooses_one() || !ops::queues::<B>() {
            return self.forward(x).0;
        }
        let logits = self.router.logits(x.clone());
        let shared = self.shared_expert.forward(x.clone());
        match ops::routed_experts(&x, &logits, &self.experts.routed(), &shared) {
            Some(output) => output,
            None => shared + self.experts.forward(x, &self.router.choose(logits)),
        }
    }
}
