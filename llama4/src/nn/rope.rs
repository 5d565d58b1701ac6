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

/// Positions whose angles are told from that of the first of them, where there are many.
const NEIGHBOURS: usize = 64;

/// Sine and cosine of every pair's angle at a position.
fn angles(frequencies: &[f64], position: usize) -> impl Iterator<Item = (f64, f64)> {
    frequencies.iter().map(move |frequency| (position as f64 * frequency).sin_cos())
}

impl<B: Backend> RotaryTable<B> {
    /// The table for `positions`, given the model's [`inverse_frequencies`].
    pub fn new(frequencies: &[f64], positions: &[usize], device: &B::Device) -> Self {
        let count = positions.len() * frequencies.len();
        let (mut cos, mut sin) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut push = |(s, c): (f64, f64)| {
            cos.push(c as f32);
            sin.push(s as f32);
        };
        if positions.len() < 2 * NEIGHBOURS {
            positions.iter().for_each(|&position| angles(frequencies, position).for_each(&mut push));
        } else {
            // An angle is that of the first of some neighbours and the way from there: one product of complex numbers in place of two functions.
            let ways: Vec<Vec<(f64, f64)>> = (0..NEIGHBOURS).map(|way| angles(frequencies, way).collect()).collect();
            let (mut first, mut start) = (None, Vec::new());
            for &position in positions {
                let way = position % NEIGHBOURS;
                if first != Some(position - way) {
                    first = Some(position - way);
                    start = angles(frequencies, position - way).collect();
                }
                start.iter().zip(&ways[way]).map(|((s, c), (t, d))| (s * d + c * t, c * d - s * t)).for_each(&mut push);
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

#[cfg(all(test, feature = "ndarray"))]
mod tests {
    use burn_ndarray::NdArray;

    use super::*;

    #[test]
    fn many_positions_have_the_angles_of_each_alone() {
        let frequencies = inverse_frequencies(&Llama4Config::scout());
        // Two sequences, one far away, neither from a multiple of the neighbours on.
        let positions: Vec<usize> = (7..300).chain(9_999_000..9_999_500).collect();
        let host = |table: &RotaryTable<NdArray>| {
            let values = |tensor: &Tensor<NdArray, 3>| tensor.to_data().into_vec::<f32>().unwrap();
            [values(&table.cos), values(&table.sin)]
        };
        let [cos, sin] = host(&RotaryTable::new(&frequencies, &positions, &Default::default()));
        for (at, &position) in positions.iter().enumerate() {
            let alone = host(&RotaryTable::new(&frequencies, &[position], &Default::default()));
            let found = [&cos, &sin].map(|values| &values[at * frequencies.len()..][..frequencies.len()]);
            for (found, alone) in found.into_iter().zip(&alone) {
                let close = found.iter().zip(alone).all(|(found, alone)| (found - alone).abs() <= f32::EPSILON);
                assert!(close, "position {position}: {found:?} for {alone:?}");
            }
        }
    }
}
