use burn::module::Module;
use burn::nn::Dropout;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::moe::{Moe, MoeConfig, Routing};
use super::residual::residual_dtype;
use super::{Attention, AttentionConfig, Mlp, MlpConfig, RmsNorm, RmsNormConfig, StepContext};
use crate::Llama4Config;
use crate::cache::LayerCache;

/// What follows the attention: one MLP, or a mixture of experts.
// One value a layer lives here, and modules are not moved around: boxing would gain nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum FeedForward<B: Backend> {
    /// One MLP of width `intermediate_size_mlp`.
    Dense(Mlp<B>),
    /// Routed experts and a shared one, of width `intermediate_size`.
    Moe(Moe<B>),
}

/// How a model is trained; none of it changes what the model computes when it is not.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Training {
    /// Share of values dropped from what each attention and feed-forward adds to the residual stream. Only values of `Autodiff<B>`
    /// are ever dropped.
    pub dropout: f64,
    /// Run every expert on all tokens ([`Experts::forward_all`](super::moe::Experts::forward_all)): the same result, quicker to
    /// differentiate on a GPU where experts are few.
    pub every_expert: bool,
}

/// Pre-norm decoder layer: `h = x + Attention(norm(x))`, `y = h + FeedForward(norm(h))`.
#[derive(Module, Debug)]
pub struct DecoderLayer<B: Backend> {
    pub(super) input_layernorm: RmsNorm<B>,
    pub(super) self_attn: Attention<B>,
    pub(super) post_attention_layernorm: RmsNorm<B>,
    pub(super) feed_forward: FeedForward<B>,
    /// Share of values dropped from both additions to the residual stream; only ever under autodiff.
    dropout: f64,
}

/// A layer's output and what it did on the way.
pub struct LayerOutput<B: Backend> {
    /// The residual stream after the layer, `[tokens, hidden]`.
    pub hidden: Tensor<B, 2>,
    /// The attention's output before it is added, `[tokens, hidden]`.
    pub attention: Tensor<B, 2>,
    /// The router's choice, in a mixture of experts.
    pub routing: Option<Routing<B>>,
}

impl<B: Backend> DecoderLayer<B> {
    /// Layer `index` of a model, with random weights.
    pub fn new(config: &Llama4Config, index: usize, device: &B::Device) -> Self {
        let norm = || RmsNormConfig::new(config.hidden_size).with_epsilon(config.rms_norm_eps).init(device);
        Self {
            input_layernorm: norm(),
            self_attn: AttentionConfig::of_layer(config, index).init(device),
            post_attention_layernorm: norm(),
            feed_forward: if config.is_moe(index) {
                let (experts, top_k) = (config.num_local_experts, config.num_experts_per_tok);
                FeedForward::Moe(
                    MoeConfig::new(config.hidden_size, config.intermediate_size, experts, top_k).init(device),
                )
            } else {
                FeedForward::Dense(MlpConfig::new(config.hidden_size, config.intermediate_size_mlp).init(device))
            },
            dropout: 0.0,
        }
    }

    /// Set how the layer is trained.
    pub fn for_training(mut self, training: Training) -> Self {
        self.dropout = training.dropout;
        if let FeedForward::Moe(moe) = self.feed_forward {
            self.feed_forward = FeedForward::Moe(moe.with_every_expert(training.every_expert));
        }
        self
    }

    /// # Shapes
    /// - x: `[tokens, hidden]`, of the type of the residual stream
    pub fn forward(&self, x: Tensor<B, 2>, context: &StepContext<B>, cache: &mut LayerCache<B>) -> LayerOutput<B> {
        self.forward_by(x, context, cache, |moe, x| {
            let (output, routing) = moe.forward(x);
            (output, Some(routing))
        })
    }

    /// [`LayerOutput::hidden`] alone.
    pub(super) fn hidden(&self, x: Tensor<B, 2>, context: &StepContext<B>, cache: &mut LayerCache<B>) -> Tensor<B, 2> {
        self.forward_by(x, context, cache, |moe, x| (moe.output(x), None)).hidden
    }

    /// Whether every token goes to one expert, if there are some: a device that chooses can go on by itself.
    pub(super) fn chooses_one(&self) -> bool {
        match &self.feed_forward {
            FeedForward::Dense(_) => true,
            FeedForward::Moe(moe) => moe.router.chooses_one(),
        }
    }

    /// With a way through the experts.
    fn forward_by(
        &self,
        x: Tensor<B, 2>,
        context: &StepContext<B>,
        cache: &mut LayerCache<B>,
        experts: impl FnOnce(&Moe<B>, Tensor<B, 2>) -> (Tensor<B, 2>, Option<Routing<B>>),
    ) -> LayerOutput<B> {
        let attention = self.self_attn.forward(self.input_layernorm.forward(x.clone()), context, cache);
        let dropout = Dropout { prob: self.dropout };
        let residual = residual_dtype(attention.dtype());
        let h = x + dropout.forward(attention.clone()).cast(residual);
        let normed = self.post_attention_layernorm.forward(h.clone());
        let (output, routing) = match &self.feed_forward {
            FeedForward::Dense(mlp) => (mlp.forward(normed), None),
            FeedForward::Moe(moe) => experts(moe, normed),
        };
        LayerOutput { hidden: h + dropout.forward(output), attention, routing }
    }
}
