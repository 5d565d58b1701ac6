//! The arithmetic of a softmax over a whole vocabulary: fast enough for 200 thousand logits a token, and the same bits
//! on every platform (only sums, products and quotients in a fixed order; the exponential of the platform's own
//! mathematics library would differ in the last bit from one to the next).

use crate::error::GenerateError;
use crate::exp::exp;

/// Independent running values: what one vector register or a few hold, and an order of summation that is fixed.
const LANES: usize = 16;

/// The largest logit.
///
/// # Errors
/// [`GenerateError::BrokenLogit`] for the first NaN or `+inf`, [`GenerateError::NothingToChoose`] if all are `-inf`.
pub(super) fn peak(logits: &[f32]) -> Result<f32, GenerateError> {
    let mut largest = [f32::NEG_INFINITY; LANES];
    // All bits set as long as every logit is below infinity, which NaN is not.
    let mut usable = [u32::MAX; LANES];
    let blocks = logits.chunks_exact(LANES);
    let rest = blocks.remainder();
    for block in blocks {
        for ((largest, usable), &x) in largest.iter_mut().zip(&mut usable).zip(block) {
            *largest = if x > *largest { x } else { *largest };
            *usable &= if x < f32::INFINITY { u32::MAX } else { 0 };
        }
    }
    let broken = |x: &f32| x.is_nan() || *x == f32::INFINITY;
    if usable.contains(&0) || rest.iter().any(broken) {
        let (id, value) = logits.iter().enumerate().find(|(_, x)| broken(x)).unwrap_or((0, &f32::NAN));
        return Err(GenerateError::BrokenLogit { id: id as u32, value: *value });
    }
    let peak = largest.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    if peak == f32::NEG_INFINITY {
        return Err(GenerateError::NothingToChoose { vocab: logits.len() });
    }
    Ok(peak)
}

/// Replaces each logit by `exp((logit - peak) / temperature)`: the softmax without its denominator, 1 at the peak.
pub(super) fn weigh(logits: &mut [f32], peak: f32, temperature: f32) {
    for x in logits {
        *x = exp((*x - peak) / temperature);
    }
}

/// The sum in `f64`.
pub(super) fn sum(values: &[f32]) -> f64 {
    let mut sums = [0.0_f64; LANES];
    let blocks = values.chunks_exact(LANES);
    let rest = blocks.remainder();
    for block in blocks {
        for (sum, &x) in sums.iter_mut().zip(block) {
            *sum += f64::from(x);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x)).sum::<f64>()
}

/// `ln Σ exp(logit)`: what is subtracted from a logit to give its log probability.
pub(super) fn log_sum_exp(logits: &[f32], peak: f32) -> f64 {
    let mut weights = [0.0; 64];
    let mut total = 0.0;
    for block in logits.chunks(weights.len()) {
        let weights = &mut weights[..block.len()];
        weights.copy_from_slice(block);
        weigh(weights, peak, 1.0);
        total += sum(weights);
    }
    f64::from(peak) + total.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_finds_the_largest_wherever_it_stands() {
        for len in [1, 15, 16, 17, 40] {
            for at in 0..len {
                let mut logits = vec![-2.0; len];
                logits[at] = -1.0;
                assert_eq!(peak(&logits).unwrap(), -1.0, "{at} of {len}");
            }
        }
    }

    #[test]
    fn peak_refuses_what_no_softmax_can_use() {
        for bad in [f32::NAN, f32::INFINITY] {
            for at in [0, 5, 31, 32, 36] {
                let mut logits = vec![0.5; 37];
                logits[at] = bad;
                let error = peak(&logits).unwrap_err();
                assert!(matches!(error, GenerateError::BrokenLogit { id, .. } if id == at as u32), "{error}");
            }
        }
        for vocab in [0, 20] {
            let error = peak(&vec![f32::NEG_INFINITY; vocab]).unwrap_err();
            assert!(matches!(error, GenerateError::NothingToChoose { vocab: v } if v == vocab), "{error}");
        }
    }

    #[test]
    fn log_sum_exp_of_equal_logits_is_their_count() {
        assert!((log_sum_exp(&[3.0; 100], 3.0) - (3.0 + 100_f64.ln())).abs() < 1e-12);
        let all = [f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY];
        assert_eq!(log_sum_exp(&all, 1.0), 1.0);
    }
}
