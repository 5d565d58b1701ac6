use std::arch::x86_64::{
    __m128, __m256, _MM_HINT_T0, _mm_add_ps, _mm_loadu_si128, _mm_prefetch, _mm_storeu_ps, _mm256_add_ps,
    _mm256_castps256_ps128, _mm256_castsi256_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_extractf128_ps,
    _mm256_fmadd_ps, _mm256_hadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_slli_epi32,
};

use super::super::half::f16_to_f32;
use super::{BF16, F16, F32, MOST, Matrix};
use crate::quant::Packing;

/// Values of a vector.
const LANES: usize = 8;

/// Vectors that a turn of the loop takes.
const TURN: usize = 4;

/// Bytes from where weights are read to where they are asked for: the processor does not look far enough itself.
const AHEAD: usize = 1024;

/// # Safety
/// The processor must have the instructions of [`Level::Avx2`](super::Level), and `x` `count` rows of the weight's width.
pub(super) unsafe fn dots(weight: &Matrix, x: &[f32], count: usize, y: &mut impl FnMut(usize, usize, f32)) {
    // SAFETY: as above.
    unsafe {
        match weight.packing() {
            None => of_format::<F32>(weight, x, count, y),
            Some(Packing::Bf16) => of_format::<BF16>(weight, x, count, y),
            Some(Packing::F16) => of_format::<F16>(weight, x, count, y),
            Some(Packing::Q8 | Packing::Q4) => unreachable!("blocks are unpacked before"),
        }
    }
}

/// # Safety
/// As [`dots`]; the weight is of the format.
unsafe fn of_format<const FORMAT: u8>(weight: &Matrix, x: &[f32], count: usize, y: &mut impl FnMut(usize, usize, f32)) {
    // SAFETY: as above.
    unsafe {
        match count {
            1 => of_count::<FORMAT, 1>(weight, x, y),
            2 => of_count::<FORMAT, 2>(weight, x, y),
            3 => of_count::<FORMAT, 3>(weight, x, y),
            _ => of_count::<FORMAT, MOST>(weight, x, y),
        }
    }
}

/// # Safety
/// As [`of_format`]; `x` has `X` rows.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn of_count<const FORMAT: u8, const X: usize>(
    weight: &Matrix,
    x: &[f32],
    y: &mut impl FnMut(usize, usize, f32),
) {
    let stride = weight.row_words();
    // One row after the other: memory gives more to one stream than to several short ones.
    for at in 0..weight.rows() {
        let words = &weight.words()[at * stride..(at + 1) * stride];
        // SAFETY: a whole row, and `X` rows of `x` of its width.
        let sums = unsafe { row::<FORMAT, X>(words.as_ptr(), weight.columns(), x) };
        for index in 0..X {
            y(at, index, sums[index]);
        }
    }
}

/// # Safety
/// As [`of_count`]; `columns` values of the row can be read.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn row<const FORMAT: u8, const X: usize>(words: *const u32, columns: usize, x: &[f32]) -> [f32; MOST] {
    // One row of `x` has as many sums as a turn has vectors, or they would wait for one another; four rows have one each.
    let apart = TURN / X;
    let mut sums = [[_mm256_setzero_ps(); TURN]; MOST];
    let mut at = 0;
    // Counted loops over registers, without iterators: the compiler must see every index to keep them out of memory.
    while at + TURN * LANES <= columns {
        for vector in 0..TURN {
            let at = at + vector * LANES;
            // SAFETY: eight values from `at` on are within the row and the rows of `x`; asking for more harms nothing.
            unsafe {
                if (vector * LANES * size::<FORMAT>()).is_multiple_of(64) {
                    _mm_prefetch::<_MM_HINT_T0>(words.cast::<u8>().wrapping_add(at * size::<FORMAT>() + AHEAD).cast());
                }
                let weight = load::<FORMAT>(words, at);
                for index in 0..X {
                    let x = _mm256_loadu_ps(x.as_ptr().add(index * columns + at));
                    sums[index][vector % apart] = _mm256_fmadd_ps(weight, x, sums[index][vector % apart]);
                }
            }
        }
        at += TURN * LANES;
    }
    while at + LANES <= columns {
        // SAFETY: as above.
        unsafe {
            let weight = load::<FORMAT>(words, at);
            for index in 0..X {
                sums[index][0] =
                    _mm256_fmadd_ps(weight, _mm256_loadu_ps(x.as_ptr().add(index * columns + at)), sums[index][0]);
            }
        }
        at += LANES;
    }
    let mut whole = [_mm256_setzero_ps(); MOST];
    for index in 0..X {
        whole[index] = sums[index][0];
        for other in 1..apart {
            whole[index] = _mm256_add_ps(whole[index], sums[index][other]);
        }
    }
    let mut found = [0.0; MOST];
    // SAFETY: four values have room there.
    unsafe { _mm_storeu_ps(found.as_mut_ptr(), sums_of_lanes(whole)) };
    for at in at..columns {
        // SAFETY: within the row.
        let weight = unsafe { value::<FORMAT>(words, at) };
        for index in 0..X {
            found[index] += weight * x[index * columns + at];
        }
    }
    found
}

/// Bytes of a value.
const fn size<const FORMAT: u8>() -> usize {
    if FORMAT == F32 { 4 } else { 2 }
}

/// Eight values of a row as floats.
///
/// # Safety
/// The processor must have AVX2 and F16C; the values can be read.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load<const FORMAT: u8>(row: *const u32, at: usize) -> __m256 {
    // SAFETY: the caller's promise, for 32-bit or 16-bit values.
    unsafe {
        match FORMAT {
            F32 => _mm256_loadu_ps(row.cast::<f32>().add(at)),
            BF16 => {
                let halves = _mm_loadu_si128(row.cast::<u16>().add(at).cast());
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
            }
            _ => _mm256_cvtph_ps(_mm_loadu_si128(row.cast::<u16>().add(at).cast())),
        }
    }
}

/// One value of a row.
///
/// # Safety
/// It can be read.
#[inline]
unsafe fn value<const FORMAT: u8>(row: *const u32, at: usize) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        match FORMAT {
            F32 => *row.cast::<f32>().add(at),
            BF16 => f32::from_bits(u32::from(*row.cast::<u16>().add(at)) << 16),
            _ => f16_to_f32(*row.cast::<u16>().add(at)),
        }
    }
}

/// The sum of each of four vectors.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sums_of_lanes(vectors: [__m256; MOST]) -> __m128 {
    let [a, b, c, d] = vectors;
    let both = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps::<1>(both))
}
