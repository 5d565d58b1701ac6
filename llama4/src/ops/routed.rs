use std::ops::Range;

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::dispatch;
use crate::quant::Weight;

/// Consecutive experts of a layer, one tensor each for the two products.
#[derive(Debug, Clone)]
pub struct RoutedExperts<'a, B: Backend> {
    /// Which of the layer's experts they are.
    pub experts: Range<usize>,
    /// `[experts, 2 * intermediate, hidden]`, the gate's rows first, then up's.
    pub gate_up: &'a Weight<B, 3>,
    /// `[experts, hidden, intermediate]`.
    pub down: &'a Weight<B, 3>,
}

/// The shared expert's output plus that of the routed expert that each token goes to, `shared + Expert_e(s · x)`, without a word of the host:
/// which tokens an expert has is known to the device alone.
///
/// `None` where tokens have to be sorted on the host. [`Experts::forward`](crate::nn::moe::Experts::forward) does that, and is the definition.
///
/// # Shapes
/// - x: `[tokens, hidden]`
/// - logits: the router's, `F32`, `[tokens, experts]`. The highest chooses `e`, of equal ones the first; its sigmoid is `s`. One that
///   is no number is passed over, which the definition takes for the highest
/// - groups: all experts, in order; `None` where some are missing or named twice
/// - shared: `[tokens, hidden]`, of the type that sums have
/// - output: as `shared`
pub fn routed_experts<B: Backend>(
    x: &Tensor<B, 2>,
    logits: &Tensor<B, 2>,
    groups: &[RoutedExperts<'_, B>],
    shared: &Tensor<B, 2>,
) -> Option<Tensor<B, 2>> {
    dispatch::routed_experts(x, logits, groups, shared)
}
