use std::f64::consts::TAU;

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use crate::Llama4Config;
use crate::config::Llama3RopeScalingParams;
use crate::ops;

/// Angle per position of each rotated pair: `f_j = theta^(-2j / head_dim)`, scaled where the config says so.
///
/// Computed in `f64`: at position 10⁷ an `f32` frequency would be off by half a radian.
pub fn inverse_frequencies(config: &Llama4Config) -> Vec<f64> {
    let width = config.head_dim as f64;
    (0..config.head_dim / 2)
        .map(|pair| config.rope_theta.powf(-2.0 * pair as f64 / width))
        .map(|frequency| match &config.rope_scaling_params {
            Some(scaling) => scaled_frequency(frequency, scaling),
            None => frequency,
        })
        .collect()
}

/// The `llama3` scaling: short wavelengths stay, long ones are stretched by `factor`, those between are blended.
///
/// One branch per element: Scout has `low_freq_factor == high_freq_factor`, where the blend would divide by zero but is never taken.
fn scaled_frequency(frequency: f64, scaling: &Llama3RopeScalingParams) -> f64 {
    let wavelength = TAU / frequency;
    let original = scaling.orig_max_position as f64;
    if wavelength < original / scaling.high_freq_factor {
        frequency
    } else if wavelength > original / scaling.low_freq_factor {
        frequency / scaling.factor
    } else if scaling.high_freq_factor == scaling.low_freq_factor {
        // Only a wavelength of exactly `original / low`; the reference counts it as long.
        frequency / scaling.factor
    } else {
        let span = scaling.high_freq_factor - scaling.low_freq_factor;
        let blend = (original / wavelength - scaling.low_freq_factor) / span;
        (1.0 - blend) * frequency / scaling.factor + blend * frequency
    }
}

/// Cosine and sine of every rotated pair at the positions of one pass, `f32`, `[tokens, 1, head_dim / 2]` each.
///
/// Made on the host in `f64` for just the positions asked for, so nothing grows with the 10 million positions a config may claim.
#[derive(Debug, Clone)]
pub struct RotaryTable<B: Backend> {
    cos: Tensor<B, 3>,
    sin: Tensor<B, 3>,
}

impl<B: Backend> RotaryTable<B> {
    /// The table for `positions`, given the model's [`inverse_frequencies`].
    pub fn new(frequencies: &[f64], positions: &[usize], device: &B::Device) -> Self {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        cos.reserve(positions.len() * frequencies.len());
        sin.reserve(positions.len() * frequencies.len());
        for &position in positions {
            for &frequency in frequencies {
                let (s, c) = (position as f64 * frequency).sin_cos();
                cos.push(c as f32);
                sin.push(s as f32);
            }
        }
        let shape = [positions.len(), 1, frequencies.len()];
        let upload = |values| Tensor::from_data_dtype(TensorData::new(values, shape), device, burn::tensor::DType::F32);
        Self { cos: upload(cos), sin: upload(sin) }
    }

    /// Cosine and sine, as [`ops::rotate`] takes them.
    pub fn tensors(&self) -> (Tensor<B, 3>, Tensor<B, 3>) {
        (self.cos.clone(), self.sin.clone())
    }
}

/// Turn each pair `(x[2j], x[2j+1])` of a head by its angle: a complex product. Interleaved pairs, not halves: Hugging Face's
/// Llama 4 weights keep Meta's order. In `f32`, cast back.
///
/// # Shapes
/// - x: `[tokens, heads, head_dim]`
/// - output: same as `x`
pub fn rotate<B: Backend>(x: Tensor<B, 3>, table: &RotaryTable<B>) -> Tensor<B, 3> {
    ops::rotate(x, table.cos.clone(), table.sin.clone())
}
