use burn::tensor::activation::log_softmax;
use burn::tensor::backend::Backend;
use burn::tensor::{ElementConversion, Int, Tensor, TensorData};

use crate::Llama4ForCausalLM;
use crate::error::CacheError;
use crate::nn::{ForwardOptions, TokenBatch};
use crate::ops;

/// How well a model predicts a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Sum of the negative log-likelihoods, in nats.
    pub total: f64,
    /// Tokens that were predicted.
    pub tokens: usize,
}

impl Score {
    /// Mean negative log-likelihood, nats a token.
    pub fn mean(&self) -> f64 {
        self.total / self.tokens as f64
    }

    /// `exp` of the mean.
    pub fn perplexity(&self) -> f64 {
        self.mean().exp()
    }
}

/// Negative log-likelihood of `tokens` under the model, in windows of `context` tokens that begin every `stride`.
///
/// Every token but the first is predicted once. With `stride == context` the first tokens of a window have little to go by; with
/// a smaller stride each token after the first window sees at least `context - stride` before it. `rows` windows are run at once.
///
/// # Errors
/// None that a caller can provoke: windows fit the cache made for them.
///
/// # Panics
/// If `context`, `stride` or `rows` is zero, or `stride` exceeds `context`.
pub fn score<B: Backend>(
    model: &Llama4ForCausalLM<B>,
    tokens: &[u32],
    context: usize,
    stride: usize,
    rows: usize,
) -> Result<Score, CacheError> {
    assert!(0 < stride && stride <= context && rows > 0, "windows of {context} every {stride}, {rows} at once");
    let device = model.device();
    let mut cache = model.new_cache(rows, context);
    let mut score = Score { total: 0.0, tokens: 0 };
    let windows = windows(tokens.len(), context, stride);
    for some in windows.chunks(rows) {
        cache.reset();
        let inputs: Vec<(usize, &[u32])> =
            some.iter().enumerate().map(|(row, window)| (row, &tokens[window.begin..window.end])).collect();
        let output = model.forward(&TokenBatch::new(&inputs, &device), &mut cache, &ForwardOptions::all_logits())?;
        let Some(logits) = output.logits else { continue };
        let (mut targets, mut weights) = (Vec::new(), Vec::new());
        for window in some {
            targets.extend(tokens[window.begin + 1..window.end + 1].iter().map(|&id| id as i32));
            weights.extend((window.begin..window.end).map(|at| if at < window.fresh { 0.0_f32 } else { 1.0 }));
            score.tokens += window.end - window.fresh;
        }
        let shape = [targets.len(), 1];
        let targets = Tensor::<B, 2, Int>::from_data(TensorData::new(targets, shape), &device);
        let weights = Tensor::<B, 2>::from_data_dtype(TensorData::new(weights, shape), &device, logits.dtype());
        let likelihood = (ops::gather_columns(log_softmax(logits, 1), targets) * weights).sum();
        score.total -= likelihood.into_scalar().elem::<f64>();
    }
    Ok(score)
}

/// Inputs `begin..end`; the predictions of inputs before `fresh` were counted by an earlier window.
#[derive(Debug, PartialEq)]
struct Window {
    begin: usize,
    fresh: usize,
    end: usize,
}

fn windows(tokens: usize, context: usize, stride: usize) -> Vec<Window> {
    let inputs = tokens.saturating_sub(1);
    let mut windows: Vec<Window> = Vec::new();
    let mut begin = 0;
    while windows.last().map_or(inputs > 0, |last| last.end < inputs) {
        let fresh = windows.last().map_or(0, |last| last.end);
        windows.push(Window { begin, fresh, end: inputs.min(begin + context) });
        begin += stride;
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_but_the_first_is_predicted_once() {
        for (tokens, context, stride) in [(0, 4, 4), (1, 4, 4), (2, 4, 2), (9, 4, 4), (10, 4, 2), (23, 8, 3)] {
            let windows = windows(tokens, context, stride);
            let predicted: Vec<usize> = windows.iter().flat_map(|window| window.fresh..window.end).collect();
            assert_eq!(predicted, (0..tokens.saturating_sub(1)).collect::<Vec<_>>(), "{tokens} {context} {stride}");
            assert!(windows.iter().all(|window| window.end - window.begin <= context));
        }
    }
}
