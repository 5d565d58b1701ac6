//! A layer's work on one decoded token where the backend does it in few launches.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};

use super::decoder_layer::FeedForward;
use super::{DecoderLayer, StepContext};
use crate::cache::LayerCache;
use crate::ops::{self, OneExpert};
use crate::quant::PackedTensor;

/// The packed weights of a layer.
struct TokenWeights<'a, B: Backend> {
    qkv: [&'a PackedTensor<B>; 3],
    output: &'a PackedTensor<B>,
    gate_up: [&'a PackedTensor<B>; 2],
    down: &'a PackedTensor<B>,
    moe: Option<TokenExperts<'a, B>>,
}

/// Routed experts, all of them in one tensor each.
struct TokenExperts<'a, B: Backend> {
    router: Tensor<B, 2>,
    gate_up: &'a PackedTensor<B>,
    down: &'a PackedTensor<B>,
}

impl<B: Backend> DecoderLayer<B> {
    /// The layer's output alone, for a pass that is not traced.
    pub(super) fn step(&self, x: Tensor<B, 2>, context: &StepContext<B>, cache: &mut LayerCache<B>) -> Tensor<B, 2> {
        let weights = if x.dims()[0] == 1 { TokenWeights::of(self) } else { None };
        match weights.filter(|weights| *context.fuses.get_or_init(|| weights.fuse(self.dtype()))) {
            Some(weights) => self.step_fused(&weights, x, context, cache),
            None => self.hidden(x, context, cache),
        }
    }

    /// Whether one token goes through operations that take several of its steps.
    pub(super) fn fuses(&self) -> bool {
        TokenWeights::of(self).is_some_and(|weights| weights.fuse(self.dtype()))
    }

    /// One token through operations that each take several of the layer's steps.
    fn step_fused(
        &self,
        weights: &TokenWeights<'_, B>,
        x: Tensor<B, 2>,
        context: &StepContext<B>,
        cache: &mut LayerCache<B>,
    ) -> Tensor<B, 2> {
        let qkv = ops::normed_linears(&x, &self.input_layernorm.of_input(), &weights.qkv);
        let qkv = qkv.try_into().unwrap_or_else(|_| unreachable!("as many products as weights"));
        let attended = self.self_attn.attend(qkv, context, cache);
        let h = ops::add_linear(&x, &attended, weights.output, None);

        let norm = self.post_attention_layernorm.of_input();
        let logits = weights.moe.as_ref().map(|moe| ops::router_logits(&h, &norm, &moe.router));
        let moe = weights.moe.as_ref().zip(logits.as_ref());
        let chosen = moe.map(|(moe, logits)| OneExpert { experts: moe.gate_up, logits });
        let gated = ops::normed_swiglu(&h, &norm, weights.gate_up, chosen.as_ref());
        let chosen = moe.map(|(moe, logits)| OneExpert { experts: moe.down, logits });
        ops::add_linear(&h, &gated, weights.down, chosen.as_ref())
    }

    /// Dtype of the activations.
    fn dtype(&self) -> DType {
        self.input_layernorm.weight().dtype()
    }
}

impl<'a, B: Backend> TokenWeights<'a, B> {
    /// `None` where a weight is not packed, or anything else is added to its product.
    fn of(layer: &'a DecoderLayer<B>) -> Option<Self> {
        let attention = &layer.self_attn;
        let (mlp, moe) = match &layer.feed_forward {
            FeedForward::Dense(mlp) => (mlp, None),
            FeedForward::Moe(moe) => {
                let [group] = moe.experts.groups.as_slice() else { return None };
                let (gate_up, down) = (group.gate_up_proj.packed()?, group.down_proj.packed()?);
                (&moe.shared_expert, Some(TokenExperts { router: moe.router.of_one()?, gate_up, down }))
            }
        };
        Some(Self {
            qkv: [attention.q_proj.packed_alone()?, attention.k_proj.packed_alone()?, attention.v_proj.packed_alone()?],
            output: attention.o_proj.packed_alone()?,
            gate_up: [mlp.gate_proj.packed_alone()?, mlp.up_proj.packed_alone()?],
            down: mlp.down_proj.packed_alone()?,
            moe,
        })
    }

    /// Whether the backend has kernels for all of them.
    fn fuse(&self, dtype: DType) -> bool {
        [self.qkv[0], self.output, self.gate_up[0], self.down]
            .into_iter()
            .chain(self.moe.iter().flat_map(|moe| [moe.gate_up, moe.down]))
            .all(|weight| ops::fuses_tokens(weight, dtype))
    }
}
