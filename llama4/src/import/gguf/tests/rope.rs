use std::f64::consts::TAU;

use crate::Llama4Config;
use crate::config::Llama3RopeScalingParams;
use crate::import::gguf::rope::recover;
use crate::nn::inverse_frequencies;

fn scaling(factor: f64, low: f64, high: f64, original: usize) -> Llama3RopeScalingParams {
    Llama3RopeScalingParams { factor, low_freq_factor: low, high_freq_factor: high, orig_max_position: original }
}

fn frequencies(theta: f64, head_dim: usize, scaling: Option<Llama3RopeScalingParams>) -> Vec<f64> {
    let mut config = Llama4Config::tiny_moe();
    (config.rope_theta, config.head_dim, config.rope_scaling_params) = (theta, head_dim, scaling);
    inverse_frequencies(&config)
}

/// The divisors that llama.cpp's converter writes.
fn divisors(theta: f64, head_dim: usize, scaling: &Llama3RopeScalingParams) -> Vec<f32> {
    let plain = frequencies(theta, head_dim, None);
    let scaled = frequencies(theta, head_dim, Some(scaling.clone()));
    plain.iter().zip(scaled).map(|(plain, scaled)| (plain / scaled) as f32).collect()
}

#[track_caller]
fn assert_same_frequencies(theta: f64, head_dim: usize, scaling: &Llama3RopeScalingParams) -> Llama3RopeScalingParams {
    let divisors = divisors(theta, head_dim, scaling);
    let found = recover(&divisors, theta, head_dim).unwrap_or_else(|error| panic!("{scaling:?}: {error}")).unwrap();
    let expected = frequencies(theta, head_dim, Some(scaling.clone()));
    let again = frequencies(theta, head_dim, Some(found.clone()));
    for (again, expected) in again.iter().zip(expected) {
        assert!((again / expected - 1.0).abs() < 1e-4, "{scaling:?} became {found:?}: {again} is not {expected}");
    }
    found
}

#[test]
fn the_scalings_of_real_models_come_back_as_they_were() {
    for scaling in [scaling(16.0, 1.0, 1.0, 8192), scaling(8.0, 1.0, 4.0, 8192), scaling(32.0, 1.0, 4.0, 8192)] {
        assert_eq!(assert_same_frequencies(5e5, 128, &scaling), scaling);
    }
    // The golden with all three bands, in heads of 32: the last wavelength but one is in the middle.
    let small = scaling(8.0, 1.0, 4.0, 64);
    assert_eq!(assert_same_frequencies(1e4, 32, &small), small);
}

#[test]
fn the_frequencies_of_any_scaling_come_back() {
    for head_dim in [2, 4, 16, 64, 128, 256] {
        for theta in [1e3, 1e4, 5e5, 1e7] {
            for original in [1, 7, 50, 1000, 8192, 100_000, 10_000_000] {
                for (low, high) in [(1.0, 1.0), (1.0, 1.01), (1.0, 4.0), (2.5, 3.0), (0.3, 40.0), (1.0, 10_000.0)] {
                    for factor in [1.5, 8.0, 16.0, 33.3] {
                        let scaling = scaling(factor, low, high, original);
                        if divisors(theta, head_dim, &scaling).iter().any(|&divisor| divisor != 1.0) {
                            assert_same_frequencies(theta, head_dim, &scaling);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_border_that_may_be_the_usual_one_is() {
    // Whatever it was: only that it is between two wavelengths can be seen.
    let found = assert_same_frequencies(5e5, 128, &scaling(16.0, 1.0, 1.0, 8000));
    assert_eq!(found, scaling(16.0, 1.0, 1.0, 8192));
    let found = assert_same_frequencies(5e5, 128, &scaling(16.0, 1.0, 1.0, 4096));
    assert_eq!(found, scaling(16.0, 1.0, 1.0, 4096));
}

#[test]
fn divisors_of_one_are_no_scaling() {
    assert_eq!(recover(&[1.0; 8], 1e4, 16), Ok(None));
    assert_eq!(recover(&[], 1e4, 0), Ok(None));
}

#[test]
fn other_divisors_are_refused() {
    let wavelength = |pair: i32| TAU * 1e4_f64.powf(f64::from(pair) / 4.0);
    let yarn: Vec<f32> = (0..4).map(|pair| 1.0 + wavelength(pair).ln() as f32).collect();
    for divisors in
        [&[1.0, 2.0, 1.0, 2.0][..], &[4.0, 3.0, 2.0, 1.0], &[0.5, 0.5, 0.5, 0.5], &[1.0, 1.1, 1.2, 8.0], &yarn]
    {
        let error = recover(divisors, 1e4, 8).unwrap_err();
        assert!(error.contains("no such scaling"), "{divisors:?}: {error}");
    }
    for (divisors, part) in [
        ([1.0, f32::NAN], "not NaN"),
        ([1.0, f32::INFINITY], "not inf"),
        ([0.0, 1.0], "not 0"),
        ([-1.0, 1.0], "not -1"),
    ] {
        let error = recover(&divisors, 1e4, 4).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    for theta in [0.0, -1.0, f64::MAX, 1e-300] {
        assert!(recover(&[1.0, 1.5, 2.0, 4.0], theta, 8).is_err(), "{theta}");
    }
}
