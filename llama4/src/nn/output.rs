use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::moe::Routing;
use crate::config::{ReturnHiddenStates, ReturnLogits};

/// What a forward pass is asked to return.
#[derive(Debug, Clone)]
pub struct ForwardOptions {
    /// Positions that go through the head.
    pub logits: ReturnLogits,
    /// Hidden states wanted beside the logits.
    pub hidden_states: ReturnHiddenStates,
    /// Keep every layer's intermediate values in [`ForwardOutput::trace`].
    pub trace: bool,
}

impl Default for ForwardOptions {
    /// The logits of each sequence's last token.
    fn default() -> Self {
        Self { logits: ReturnLogits::LastToken, hidden_states: ReturnHiddenStates::None, trace: false }
    }
}

impl ForwardOptions {
    /// The logits of every token.
    pub fn all_logits() -> Self {
        Self { logits: ReturnLogits::All, ..Self::default() }
    }
}

/// What a forward pass returns. Rows are in the order of the batch's sequences.
#[derive(Debug, Clone)]
pub struct ForwardOutput<B: Backend> {
    /// Logits of each sequence's last token, `f32`, `[sequences, vocab]`.
    pub last_logits: Tensor<B, 2>,
    /// Logits of the last `n` tokens of each sequence ([`ReturnLogits::Variable`]; fewer where a sequence has fewer new ones) or of all
    /// ([`ReturnLogits::All`]), `f32`, `[offsets.last(), vocab]`.
    pub logits: Option<Tensor<B, 2>>,
    /// Where each sequence's rows of `logits` begin, and their end: `sequences + 1` entries.
    pub offsets: Option<Vec<usize>>,
    /// The hidden states asked for: one tensor for all modes but [`ReturnHiddenStates::SelectedLayers`], which gives one a layer.
    /// `[sequences, hidden]` for the last tokens, else `[tokens, hidden]`.
    pub hidden_states: Vec<Tensor<B, 2>>,
    /// Every layer's intermediate values, if asked for.
    pub trace: Option<Trace<B>>,
}

/// Intermediate values of every layer, for tests and auxiliary losses.
#[derive(Debug, Clone)]
pub struct Trace<B: Backend> {
    /// Output of each layer's attention before it is added to the residual stream, `[tokens, hidden]`.
    pub attention: Vec<Tensor<B, 2>>,
    /// Residual stream after each layer, `[tokens, hidden]`.
    pub layers: Vec<Tensor<B, 2>>,
    /// Routing of each layer; `None` in dense ones.
    pub routing: Vec<Option<Routing<B>>>,
}

impl<B: Backend> Default for Trace<B> {
    fn default() -> Self {
        Self { attention: Vec::new(), layers: Vec::new(), routing: Vec::new() }
    }
}
