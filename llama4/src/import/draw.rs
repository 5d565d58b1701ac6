//! What random weights are: a generator that any number of cores can draw from, and the scale of each parameter.

use super::names::ExpectedTensor;
use crate::Llama4Config;
use crate::quant::WeightKind;

/// The golden ratio in 64 bits, the step of the SplitMix generator.
pub(super) const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix's output function: every bit of the result depends on every bit of the state.
pub(super) fn mix(mut state: u64) -> u64 {
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// Values that are nearly normal, of deviation one.
pub(super) fn bells(mut state: u64) -> impl Iterator<Item = f32> {
    std::iter::repeat_with(move || {
        state = state.wrapping_add(STEP);
        bell(mix(state))
    })
}

/// The sum of four uniform numbers of 16 bits, scaled.
fn bell(bits: u64) -> f32 {
    let sum: u64 = (0..4).map(|part| bits >> (16 * part) & 0xffff).sum();
    // The sum has mean 4 · 65535 / 2 and variance 4 · 65536² / 12.
    (sum as f32 - 131_070.0) * (1.0 / 37_837.2)
}

/// Standard deviation of a tensor's values; `None` for ones.
///
/// Activations stay near one through any number of layers: a projection is scaled by the root of its input width, and what is added to the
/// residual stream by the root of the number of additions; norms are one. Routing is spread over the experts.
pub(super) fn deviation(config: &Llama4Config, tensor: &ExpectedTensor) -> Option<f32> {
    let [_, _, input] = tensor.matrices();
    let name = &tensor.name;
    if name.ends_with("norm.weight") {
        return None;
    }
    let mut deviation = match tensor.kind {
        WeightKind::Embedding => 1.0,
        WeightKind::Float if name.ends_with(".bias") => 0.02,
        _ => 1.0 / (input as f32).sqrt(),
    };
    if name.ends_with("o_proj.weight") || name.contains("down_proj") {
        deviation /= (2.0 * config.num_hidden_layers as f32).sqrt();
    }
    Some(deviation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_spread_as_they_should_be() {
        let draws: Vec<f32> = bells(0).take(100_000).collect();
        let mean: f32 = draws.iter().sum::<f32>() / draws.len() as f32;
        let variance: f32 = draws.iter().map(|draw| draw * draw).sum::<f32>() / draws.len() as f32;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.01, "mean {mean}, variance {variance}");
    }
}
