use std::sync::OnceLock;

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor, TensorData};

use super::RotaryTable;
use crate::Llama4Config;
use crate::cache::Span;

/// What one forward pass knows of its tokens' places; shared by all layers.
#[derive(Debug, Clone)]
pub struct StepContext<B: Backend> {
    /// Where each sequence's tokens stand in the batch and in the sequence.
    pub spans: Vec<Span>,
    /// Rotation at each token's position.
    pub rotary: RotaryTable<B>,
    /// Query scale of NoPE layers at each token's position, `f32`, `[tokens, 1, 1]`; `None` where it is one throughout.
    pub temperature: Option<Tensor<B, 3>>,
    /// Cache row and position of each token, `[tokens, 2]`, where every sequence has one new token.
    pub places: Option<Tensor<B, 2, Int>>,
    /// Whether the backend has kernels for a single token's way through the layers: asked of the first, whose weights are packed as those of the
    /// others.
    pub(super) fuses: OnceLock<bool>,
}

impl<B: Backend> StepContext<B> {
    /// The context of a pass over `spans`.
    pub fn new(config: &Llama4Config, frequencies: &[f64], spans: Vec<Span>, device: &B::Device) -> Self {
        let positions: Vec<usize> = spans.iter().flat_map(|span| span.past..span.past + span.len).collect();
        let temperature = config.attn_temperature_tuning.then(|| temperatures(config, &positions)).and_then(|scales| {
            let shape = [scales.len(), 1, 1];
            scales
                .iter()
                .any(|scale| *scale != 1.0)
                .then(|| Tensor::from_data_dtype(TensorData::new(scales, shape), device, DType::F32))
        });
        let places = spans.iter().all(|span| span.len == 1).then(|| {
            let places: Vec<i32> = spans.iter().flat_map(|span| [span.row as i32, span.past as i32]).collect();
            Tensor::from_data(TensorData::new(places, [spans.len(), 2]), device)
        });
        Self {
            rotary: RotaryTable::new(frequencies, &positions, device),
            temperature,
            places,
            spans,
            fuses: OnceLock::new(),
        }
    }
}

/// Temperature tuning of NoPE layers: `τ(p) = 1 + attn_scale · ln(1 + floor((p + 1) / floor_scale))`, by the query's position.
fn temperatures(config: &Llama4Config, positions: &[usize]) -> Vec<f32> {
    positions
        .iter()
        .map(|&position| {
            let steps = ((position as f64 + 1.0) / config.floor_scale).floor();
            (1.0 + config.attn_scale * steps.ln_1p()) as f32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperature_begins_one_position_early() {
        let config = Llama4Config::scout();
        let tau = temperatures(&config, &[0, 8190, 8191, 16383]);
        assert_eq!(tau[..2], [1.0, 1.0]);
        assert!((tau[2] - 1.069_314_7).abs() < 1e-6, "{tau:?}");
        assert!((tau[3] - 1.109_861_2).abs() < 1e-6, "{tau:?}");
    }
}
