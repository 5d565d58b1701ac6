//! The exponential of many values at once: no call and no branch, so that loops over it become vectors, and the same bits on every platform.

/// `exp(x)` within 2e-7 of its value; exactly 1 at 0, 0 below -87, where an `f32` gets subnormal, and not beyond `exp(88)`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // x = n·ln 2 + r with |r| <= ln 2 / 2. Adding 1.5·2²³ rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first with so few bits that its product with n is exact.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Comparisons that leave what is not a number as it is.
    let inside = if x < -87.0 { -87.0 } else { x };
    let inside = if inside > 88.0 { 88.0 } else { inside };
    let shifted = inside * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (inside - n * LN2_HIGH) - n * LN2_LOW;
    // Taylor's series: at |r| = 0.35 the first term left out is 5e-9 of the value.
    let series = 1.0 / 5040.0;
    let series = series * r + 1.0 / 720.0;
    let series = series * r + 1.0 / 120.0;
    let series = series * r + 1.0 / 24.0;
    let series = series * r + 1.0 / 6.0;
    let series = series * r + 0.5;
    let series = series * r + 1.0;
    let series = series * r + 1.0;
    let power_of_two = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { series * power_of_two }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_its_stated_error() {
        let mut worst = 0.0_f64;
        for step in -880_000..870_000 {
            let x = -(step as f32) * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 2e-7, "{worst}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(-1e-9), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn exp_never_exceeds_one_and_hardly_ever_falls_as_x_grows() {
        let mut last = 0.0;
        for step in (0..870_000).rev() {
            let next = exp(-(step as f32) * 1e-4);
            assert!(next <= 1.0 && next >= last * (1.0 - 3e-7), "{step}");
            last = next;
        }
    }
}
