//! Exponentials of many values at once.

/// `eˣ`, within two units of the last place; 0 below -87.3, and no infinity above 88.
///
/// `x = n ln 2 + r`: the power of two goes to the exponent, the rest is a polynomial. No branches, so that loops over it become vectors.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5 · 2²³ leaves the nearest integer in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    let clamped = if x < -87.3 { -87.3 } else { x };
    let clamped = if clamped > 88.0 { 88.0 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    // ln 2 in two parts: the first has few bits, so that its product with n is exact.
    let r = clamped - n * 0.693_359_4 - n * -2.121_944_4e-4;
    // The series to the sixth power, whose next term is below 2⁻²⁵ for |r| <= ln 2 / 2.
    let series = 1.0 / 720.0;
    let series = series * r + 1.0 / 120.0;
    let series = series * r + 1.0 / 24.0;
    let series = series * r + 1.0 / 6.0;
    let series = series * r + 0.5;
    let series = series * r + 1.0;
    let series = series * r + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.3 { 0.0 } else { series * power }
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_the_exponential() {
        for step in -8_730..8_800 {
            let x = step as f32 * 0.01;
            let exact = f64::from(x).exp();
            let error = (f64::from(super::exp(x)) - exact).abs() / exact;
            assert!(error < 2.5e-7, "{x}: off by {error:e}");
        }
        assert_eq!([super::exp(0.0), super::exp(-100.0), super::exp(f32::NEG_INFINITY)], [1.0, 0.0, 0.0]);
        assert!(super::exp(f32::NAN).is_nan());
    }
}
