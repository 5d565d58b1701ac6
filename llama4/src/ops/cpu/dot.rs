//! Dot product of two `f32` slices, with the widest instructions this processor has.

/// Signature of every implementation; the slices have the same length.
pub(super) type Dot = fn(&[f32], &[f32]) -> f32;

/// The implementation for this processor, to be looked up once per call of an operation.
pub(super) fn best() -> Dot {
    #[cfg(target_arch = "x86_64")]
    if has_fma() {
        return |a, b| {
            // SAFETY: AVX2 and FMA were just detected.
            unsafe { dot_fma(a, b) }
        };
    }
    dot_portable
}

/// Name of the implementation that [`best`] chooses.
pub(in crate::ops) fn instructions() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if has_fma() {
        return "row product, AVX2 and FMA";
    }
    "row product, portable"
}

#[cfg(target_arch = "x86_64")]
fn has_fma() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Sixteen running sums, which compilers turn into whatever vectors the target's baseline has.
fn dot_portable(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 16];
    let (a_blocks, b_blocks) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a_blocks.remainder().iter().zip(b_blocks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_blocks.zip(b_blocks) {
        for lane in 0..16 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    rest + sums.iter().sum::<f32>()
}

/// # Safety
/// The processor must have AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn dot_fma(a: &[f32], b: &[f32]) -> f32 {
    use std::arch::x86_64::{_mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps};
    let len = a.len().min(b.len());
    // Four sums hide the latency of the fused multiply-add.
    let mut sums = [_mm256_setzero_ps(); 4];
    let blocks = len / 32;
    for block in 0..blocks {
        for (lane, sum) in sums.iter_mut().enumerate() {
            let at = block * 32 + lane * 8;
            // SAFETY: `at + 8 <= blocks * 32 <= len`, within both slices; unaligned loads are allowed.
            let (x, y) = unsafe { (_mm256_loadu_ps(a.as_ptr().add(at)), _mm256_loadu_ps(b.as_ptr().add(at))) };
            *sum = _mm256_fmadd_ps(x, y, *sum);
        }
    }
    let sum = _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
    let mut lanes = [0.0_f32; 8];
    // SAFETY: `lanes` has room for eight floats.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sum) };
    let rest: f32 = a[blocks * 32..len].iter().zip(&b[blocks * 32..len]).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_implementation_sums_in_any_length() {
        for len in [0, 1, 7, 8, 31, 32, 33, 64, 100, 1000] {
            let a: Vec<f32> = (0..len).map(|i| (i as f32 * 0.37).sin()).collect();
            let b: Vec<f32> = (0..len).map(|i| (i as f32 * 0.11).cos()).collect();
            let exact: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            for dot in [dot_portable, best()] {
                let found = f64::from(dot(&a, &b));
                assert!((found - exact).abs() < 1e-5 * (1.0 + len as f64), "length {len}: {found} for {exact}");
            }
        }
    }
}
