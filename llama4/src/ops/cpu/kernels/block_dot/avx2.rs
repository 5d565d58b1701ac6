use std::arch::x86_64::{
    __m256, __m256i, _mm_add_ps, _mm_add_ss, _mm_castps_si128, _mm_cvtsi128_si32, _mm_loadu_si128, _mm_movehdup_ps,
    _mm_movehl_ps, _mm256_abs_epi8, _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256, _mm256_castps256_ps128,
    _mm256_castsi128_si256, _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_extractf128_ps, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps,
    _mm256_permutevar8x32_ps, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_setr_epi32,
    _mm256_setzero_ps, _mm256_setzero_si256, _mm256_sign_epi8, _mm256_srli_epi16,
};

use super::{Activations, Matrix};
use crate::quant::{BLOCK, Packing};

/// Blocks whose scales fit a register.
const GROUP: usize = 8;

/// # Safety
/// The processor must have the instructions of [`Level::Avx2`](super::Level); `x` has rows `first..first + count` of the weight's width, padded,
/// and was quantised for its packing.
pub(super) unsafe fn dots(
    weight: &Matrix,
    x: &Activations,
    first: usize,
    count: usize,
    y: &mut impl FnMut(usize, usize, f32),
) {
    // SAFETY: as above.
    unsafe {
        match (weight.packing(), count) {
            (Some(Packing::Q4), 1) => of_count::<true, 2, 1>(weight, x, first, y),
            (Some(Packing::Q4), 2) => of_count::<true, 2, 2>(weight, x, first, y),
            (Some(Packing::Q4), 3) => of_count::<true, 1, 3>(weight, x, first, y),
            (Some(Packing::Q4), _) => of_count::<true, 1, 4>(weight, x, first, y),
            (_, 1) => of_count::<false, 2, 1>(weight, x, first, y),
            (_, 2) => of_count::<false, 2, 2>(weight, x, first, y),
            (_, 3) => of_count::<false, 1, 3>(weight, x, first, y),
            (_, _) => of_count::<false, 1, 4>(weight, x, first, y),
        }
    }
}

/// # Safety
/// As [`dots`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn of_count<const Q4: bool, const ROWS: usize, const X: usize>(
    weight: &Matrix,
    x: &Activations,
    first: usize,
    y: &mut impl FnMut(usize, usize, f32),
) {
    let mut row = 0;
    while row < weight.rows() {
        // SAFETY: `row + ROWS` or `row + 1` rows are there.
        if row + ROWS <= weight.rows() {
            let sums = unsafe { rows::<Q4, ROWS, X>(weight, row, x, first) };
            for (offset, sums) in sums.iter().enumerate() {
                sums.iter().enumerate().for_each(|(index, &sum)| y(row + offset, index, sum));
            }
            row += ROWS;
        } else {
            let [sums] = unsafe { rows::<Q4, 1, X>(weight, row, x, first) };
            sums.iter().enumerate().for_each(|(index, &sum)| y(row, index, sum));
            row += 1;
        }
    }
}

/// # Safety
/// As [`of_count`]; the weight has rows `at..at + ROWS`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows<const Q4: bool, const ROWS: usize, const X: usize>(
    weight: &Matrix,
    at: usize,
    x: &Activations,
    first: usize,
) -> [[f32; X]; ROWS] {
    let (stride, scale_stride) = (4 * weight.row_words(), weight.row_scales());
    let bytes: &[u8] = bytemuck::cast_slice(weight.words());
    let bytes = bytes[at * stride..(at + ROWS) * stride].as_ptr();
    let scales = &weight.scales()[at * scale_stride..(at + ROWS) * scale_stride];
    let (quants, starts, x_scales) = (x.quants(first).as_ptr(), x.starts(first).as_ptr(), x.scales(first).as_ptr());
    let (width, start_width, scale_width) = (x.width(), x.starts(first).len(), x.scales(first).len());
    let blocks = weight.columns() / BLOCK;
    let held = if Q4 { 2 } else { 1 };
    // Lane i belongs to block i / (8 / held) of a register.
    let block_of_lane = if Q4 { _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1) } else { _mm256_setzero_si256() };
    let mut sums = [[_mm256_setzero_ps(); X]; ROWS];
    let mut block = 0;
    while block < blocks {
        let left = (blocks - block).min(GROUP);
        let mut scale = [[_mm256_setzero_ps(); X]; ROWS];
        for (row, scale) in scale.iter_mut().enumerate() {
            let own = halves(&scales[row * scale_stride + block..][..left]);
            for (index, scale) in scale.iter_mut().enumerate() {
                // SAFETY: scales of `x` are padded to whole groups.
                let x_scales = unsafe { _mm256_loadu_ps(x_scales.add(index * scale_width + block)) };
                *scale = _mm256_mul_ps(own, x_scales);
            }
        }
        let mut lanes = block_of_lane;
        for from in (block..block + left).step_by(held) {
            let mut xs = [[_mm256_setzero_si256(); 3]; X];
            for (index, xs) in xs.iter_mut().enumerate() {
                // SAFETY: activations are padded to whole groups.
                unsafe {
                    let quants = quants.add(index * width + from * BLOCK);
                    xs[0] = _mm256_loadu_si256(quants.cast());
                    if Q4 {
                        xs[1] = _mm256_loadu_si256(quants.add(32).cast());
                        xs[2] = _mm256_loadu_si256(starts.add(index * start_width + from * 4).cast());
                    }
                }
            }
            for (row, (sums, scale)) in sums.iter_mut().zip(&scale).enumerate() {
                // SAFETY: within the row; its last block of 4 bits may be half a register.
                let weight = unsafe {
                    let place = bytes.add(row * stride + from * if Q4 { 16 } else { 32 });
                    if Q4 && from + 1 == blocks {
                        _mm256_castsi128_si256(_mm_loadu_si128(place.cast()))
                    } else {
                        _mm256_loadu_si256(place.cast())
                    }
                };
                for ((sum, scale), xs) in sums.iter_mut().zip(scale).zip(&xs) {
                    let products = _mm256_cvtepi32_ps(products::<Q4>(weight, xs));
                    *sum = _mm256_fmadd_ps(products, _mm256_permutevar8x32_ps(*scale, lanes), *sum);
                }
            }
            lanes = _mm256_add_epi32(lanes, _mm256_set1_epi32(held as i32));
        }
        block += GROUP;
    }
    sums.map(|sums: [__m256; X]| sums.map(|sum| sum_of_lanes(sum)))
}

/// Sums of four (8 bits) or eight (4 bits) products; `x` are low and high halves and what to start from.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn products<const Q4: bool>(weight: __m256i, x: &[__m256i; 3]) -> __m256i {
    let ones = _mm256_set1_epi16(1);
    if Q4 {
        let nibbles = _mm256_set1_epi8(15);
        let low = _mm256_and_si256(weight, nibbles);
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(weight), nibbles);
        // Four products of at most 15 · 127 fit 16 bits.
        let pairs = _mm256_add_epi16(_mm256_maddubs_epi16(low, x[0]), _mm256_maddubs_epi16(high, x[1]));
        _mm256_add_epi32(_mm256_madd_epi16(pairs, ones), x[2])
    } else {
        // The sign goes to the activation, which has no -128: two products of at most 128 · 127 fit 16 bits.
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weight), _mm256_sign_epi8(x[0], weight));
        _mm256_madd_epi16(pairs, ones)
    }
}

/// Up to eight `f16` as floats, then zeros.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn halves(scales: &[u16]) -> __m256 {
    let mut eight = [0_u16; GROUP];
    let eight = match scales.first_chunk() {
        Some(scales) => scales,
        None => {
            eight[..scales.len()].copy_from_slice(scales);
            &eight
        }
    };
    // SAFETY: eight values of 16 bits.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(eight.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_of_lanes(sum: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    f32::from_bits(_mm_cvtsi128_si32(_mm_castps_si128(_mm_add_ss(two, _mm_movehdup_ps(two)))) as u32)
}
