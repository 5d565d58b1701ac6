use std::arch::x86_64::{
    __m256, __m256i, _MM_HINT_T0, _mm_add_ps, _mm_add_ss, _mm_castps_si128, _mm_cvtsi128_si32, _mm_loadu_si128,
    _mm_movehdup_ps, _mm_movehl_ps, _mm_prefetch, _mm256_abs_epi8, _mm256_add_epi16, _mm256_add_epi32, _mm256_add_ps,
    _mm256_and_si256, _mm256_blend_ps, _mm256_broadcast_ss, _mm256_castps256_ps128, _mm256_castsi128_si256,
    _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_setzero_ps,
    _mm256_sign_epi8, _mm256_srli_epi16, _mm256_storeu_ps,
};
use std::mem::MaybeUninit;

use super::{Matrix, Rows};
use crate::quant::{BLOCK, Packing};

/// Blocks whose scales fit a register.
const GROUP: usize = 8;

/// Blocks of a row that are worked through at a time.
const PART: usize = 64;

/// Bytes from where weights are read to where they are asked for: the processor does not look far enough itself.
const AHEAD: usize = 2048;

/// # Safety
/// The processor must have the instructions of [`Level::Avx2`](super::Level); `x` has `count` rows of the weight's width, padded,
/// and was quantised for its packing.
pub(super) unsafe fn dots(weight: &Matrix, x: &Rows, count: usize, y: &mut impl FnMut(usize, usize, f32)) {
    // SAFETY: as above.
    unsafe {
        match (weight.packing(), count) {
            (Some(Packing::Q4), 1) => of_count::<true, 1>(weight, x, y),
            (Some(Packing::Q4), 2) => of_count::<true, 2>(weight, x, y),
            (Some(Packing::Q4), 3) => of_count::<true, 3>(weight, x, y),
            (Some(Packing::Q4), _) => of_count::<true, 4>(weight, x, y),
            (_, 1) => of_count::<false, 1>(weight, x, y),
            (_, 2) => of_count::<false, 2>(weight, x, y),
            (_, 3) => of_count::<false, 3>(weight, x, y),
            (_, _) => of_count::<false, 4>(weight, x, y),
        }
    }
}

/// # Safety
/// As [`dots`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn of_count<const Q4: bool, const X: usize>(weight: &Matrix, x: &Rows, y: &mut impl FnMut(usize, usize, f32)) {
    // One row after the other: memory gives more to one stream than to several short ones.
    for at in 0..weight.rows() {
        // SAFETY: the row is there.
        let sums = unsafe { row::<Q4, X>(weight, at, x) };
        sums.iter().enumerate().for_each(|(index, &sum)| y(at, index, sum));
    }
}

/// # Safety
/// As [`of_count`]; the weight has row `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn row<const Q4: bool, const X: usize>(weight: &Matrix, at: usize, x: &Rows) -> [f32; X] {
    let (stride, scale_stride) = (4 * weight.row_words(), weight.row_scales());
    let bytes: &[u8] = bytemuck::cast_slice(weight.words());
    let bytes = bytes[at * stride..(at + 1) * stride].as_ptr();
    let scales = weight.scales()[at * scale_stride..(at + 1) * scale_stride].as_ptr();
    let (quants, starts, x_scales) = (x.quants.as_ptr(), x.starts.as_ptr(), x.scales.as_ptr());
    let Rows { width, start_width, scale_width, .. } = *x;
    let blocks = weight.columns() / BLOCK;
    // Products of a block's scales. Through memory, from where a value comes as a whole register without an instruction for it.
    let mut both = [[const { MaybeUninit::<f32>::uninit() }; PART]; X];
    let mut sums = [_mm256_setzero_ps(); X];
    // Few rows of `x` have two sums each, or they would wait for one another.
    let mut others = [_mm256_setzero_ps(); X];
    let mut first = 0;
    // Counted loops over registers, without iterators: the compiler must see every index to keep them out of memory.
    while first < blocks {
        let count = (blocks - first).min(PART);
        let mut block = 0;
        while block < count {
            // SAFETY: scales from `first + block` on are there, as many as asked for; scales of `x` are padded to whole groups.
            unsafe {
                let own = halves(scales.add(first + block), (count - block).min(GROUP));
                for index in 0..X {
                    let scale = _mm256_loadu_ps(x_scales.add(index * scale_width + first + block));
                    _mm256_storeu_ps(both[index].as_mut_ptr().cast::<f32>().add(block), _mm256_mul_ps(own, scale));
                }
            }
            block += GROUP;
        }
        let mut block = 0;
        while block < count {
            // SAFETY: within the row; its last block of 4 bits may be half a register. Activations are padded to whole groups, and so are
            // the scales that were just written.
            unsafe {
                let from = first + block;
                let place = bytes.add(from * if Q4 { 16 } else { 32 });
                _mm_prefetch::<_MM_HINT_T0>(place.wrapping_add(AHEAD).cast());
                let quants = quants.add(from * BLOCK);
                let starts = starts.add(from * 4);
                if Q4 {
                    let weight = if from + 1 == blocks {
                        _mm256_castsi128_si256(_mm_loadu_si128(place.cast()))
                    } else {
                        _mm256_loadu_si256(place.cast())
                    };
                    let nibbles = _mm256_set1_epi8(15);
                    let low = _mm256_and_si256(weight, nibbles);
                    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(weight), nibbles);
                    for index in 0..X {
                        let products =
                            products_q4(low, high, quants.add(index * width), starts.add(index * start_width));
                        let scale = _mm256_blend_ps::<0xf0>(
                            _mm256_broadcast_ss(both[index][block].assume_init_ref()),
                            _mm256_broadcast_ss(both[index][block + 1].assume_init_ref()),
                        );
                        if X <= 2 && block & 2 != 0 {
                            others[index] = _mm256_fmadd_ps(products, scale, others[index]);
                        } else {
                            sums[index] = _mm256_fmadd_ps(products, scale, sums[index]);
                        }
                    }
                    block += 2;
                } else {
                    let weight = _mm256_loadu_si256(place.cast());
                    let size = _mm256_abs_epi8(weight);
                    for index in 0..X {
                        let products = products_q8(weight, size, quants.add(index * width));
                        let scale = _mm256_broadcast_ss(both[index][block].assume_init_ref());
                        if X <= 2 && block & 1 != 0 {
                            others[index] = _mm256_fmadd_ps(products, scale, others[index]);
                        } else {
                            sums[index] = _mm256_fmadd_ps(products, scale, sums[index]);
                        }
                    }
                    block += 1;
                }
            }
        }
        first += PART;
    }
    let mut found = [0.0; X];
    for index in 0..X {
        found[index] = sum_of_lanes(if X <= 2 { _mm256_add_ps(sums[index], others[index]) } else { sums[index] });
    }
    found
}

/// Sums of four products of 8 bits.
///
/// # Safety
/// The processor must have AVX2, and a register's activations can be read.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn products_q8(weight: __m256i, size: __m256i, x: *const i8) -> __m256 {
    // SAFETY: the caller's promise.
    let x = unsafe { _mm256_loadu_si256(x.cast()) };
    // The sign goes to the activation, which has no -128: two products of at most 128 · 127 fit 16 bits.
    let pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(x, weight));
    _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

/// Sums of eight products of 4 bits.
///
/// # Safety
/// The processor must have AVX2. Two registers' activations can be read, and what eight sums start from.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn products_q4(low: __m256i, high: __m256i, x: *const i8, starts: *const i32) -> __m256 {
    // SAFETY: the caller's promise.
    let (first, second, start) = unsafe {
        (_mm256_loadu_si256(x.cast()), _mm256_loadu_si256(x.add(32).cast()), _mm256_loadu_si256(starts.cast()))
    };
    // Four products of at most 15 · 127 fit 16 bits.
    let pairs = _mm256_add_epi16(_mm256_maddubs_epi16(low, first), _mm256_maddubs_epi16(high, second));
    _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)), start))
}

/// Up to eight `f16` as floats, then zeros.
///
/// # Safety
/// The processor must have F16C; `count` values can be read.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn halves(scales: *const u16, count: usize) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        if count >= GROUP {
            return _mm256_cvtph_ps(_mm_loadu_si128(scales.cast()));
        }
        let mut eight = [0_u16; GROUP];
        std::ptr::copy_nonoverlapping(scales, eight.as_mut_ptr(), count);
        _mm256_cvtph_ps(_mm_loadu_si128(eight.as_ptr().cast()))
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_of_lanes(sum: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    f32::from_bits(_mm_cvtsi128_si32(_mm_castps_si128(_mm_add_ss(two, _mm_movehdup_ps(two)))) as u32)
}
