//! Floats to blocks of bytes.

use super::level::Level;
use crate::quant::BLOCK;

/// `x = q · s` for whole blocks, `q` in -127..=127, one `s` a block.
pub(super) fn round(level: Level, x: &[f32], quants: &mut [i8], scales: &mut [f32]) {
    let (blocks, rest) = x.as_chunks::<BLOCK>();
    let quants = quants.as_chunks_mut::<BLOCK>().0;
    assert!(rest.is_empty() && blocks.len() == quants.len() && blocks.len() == scales.len(), "whole blocks");
    #[cfg(target_arch = "x86_64")]
    if level != Level::Portable {
        // SAFETY: every other level of this target has AVX2.
        unsafe { avx2::round(blocks, quants, scales) };
        return;
    }
    let _ = level;
    for ((block, quants), scale) in blocks.iter().zip(quants).zip(scales) {
        (*quants, *scale) = round_block(block);
    }
}

/// A block's bytes, and its scale.
fn round_block(block: &[f32; BLOCK]) -> ([i8; BLOCK], f32) {
    let largest =
        block.iter().fold(0.0_f32, |largest, value| if value.abs() > largest { value.abs() } else { largest });
    let inverse = inverse(largest);
    // Adding 1.5 · 2²³ leaves the nearest integer in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    (block.map(|value| (value * inverse + MAGIC).to_bits() as i8), largest / 127.0)
}

/// What a block is multiplied with.
#[inline(always)]
fn inverse(largest: f32) -> f32 {
    if largest == 0.0 { 0.0 } else { 127.0 / largest }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        _mm_cvtss_f32, _mm_max_ps, _mm_max_ss, _mm_movehdup_ps, _mm_movehl_ps, _mm256_and_ps, _mm256_castps256_ps128,
        _mm256_castsi256_ps, _mm256_cvtps_epi32, _mm256_extractf128_ps, _mm256_loadu_ps, _mm256_max_ps, _mm256_mul_ps,
        _mm256_packs_epi16, _mm256_packs_epi32, _mm256_permutevar8x32_epi32, _mm256_set1_epi32, _mm256_set1_ps,
        _mm256_setr_epi32, _mm256_setzero_ps, _mm256_storeu_si256,
    };

    use super::{BLOCK, inverse};

    /// # Safety
    /// The processor must have AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn round(blocks: &[[f32; BLOCK]], quants: &mut [[i8; BLOCK]], scales: &mut [f32]) {
        let sign = _mm256_castsi256_ps(_mm256_set1_epi32(i32::MAX));
        // Packing works within halves of a register.
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        for ((block, quants), scale) in blocks.iter().zip(quants).zip(scales) {
            let mut parts = [_mm256_setzero_ps(); BLOCK / 8];
            let mut largest = _mm256_setzero_ps();
            for part in 0..BLOCK / 8 {
                // SAFETY: within the block.
                parts[part] = unsafe { _mm256_loadu_ps(block.as_ptr().add(8 * part)) };
                // What is no number is the first operand, which the second is taken for.
                largest = _mm256_max_ps(_mm256_and_ps(parts[part], sign), largest);
            }
            let four = _mm_max_ps(_mm256_castps256_ps128(largest), _mm256_extractf128_ps::<1>(largest));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            let largest = _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
            *scale = largest / 127.0;
            let inverse = _mm256_set1_ps(inverse(largest));
            let [a, b, c, d] = parts.map(|part| _mm256_cvtps_epi32(_mm256_mul_ps(part, inverse)));
            let bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
            let bytes = _mm256_permutevar8x32_epi32(bytes, order);
            // SAFETY: a block of bytes is a register.
            unsafe { _mm256_storeu_si256(quants.as_mut_ptr().cast(), bytes) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_rounds_alike() {
        let mut x: Vec<f32> = (0..5 * BLOCK).map(|index| (index as f32 * 0.7).sin() * (index as f32 - 60.0)).collect();
        x[..BLOCK].fill(0.0);
        // Halves go to the even neighbour, and the largest keeps its sign.
        x[BLOCK..BLOCK + 4].copy_from_slice(&[-127.0, 0.5, 1.5, -2.5]);
        x[BLOCK + 4..2 * BLOCK].fill(-3.0);
        for level in Level::available() {
            let (mut quants, mut scales) = (vec![99_i8; x.len()], vec![f32::NAN; 5]);
            round(level, &x, &mut quants, &mut scales);
            assert_eq!((&quants[..BLOCK], scales[0]), (&[0; BLOCK][..], 0.0), "{level}");
            assert_eq!((&quants[BLOCK..BLOCK + 5], scales[1]), (&[-127, 0, 2, -2, -3][..], 1.0), "{level}");
            for ((x, quants), scale) in x.chunks(BLOCK).zip(quants.chunks(BLOCK)).zip(&scales) {
                let (expected, expected_scale) = round_block(x.try_into().unwrap());
                assert_eq!((quants, *scale), (&expected[..], expected_scale), "{level}");
                for (x, quant) in x.iter().zip(quants) {
                    assert!((x - f32::from(*quant) * scale).abs() <= 0.5001 * scale, "{level}: {x}");
                }
            }
        }
    }
}
