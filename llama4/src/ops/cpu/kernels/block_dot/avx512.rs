use std::arch::x86_64::{
    __m512i, _mm256_maskz_loadu_epi16, _mm512_add_epi32, _mm512_and_si512, _mm512_cvtepi32_ps, _mm512_cvtph_ps,
    _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_maskz_loadu_epi8, _mm512_mul_ps,
    _mm512_permutexvar_ps, _mm512_reduce_add_ps, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_setr_epi32,
    _mm512_setzero_ps, _mm512_srli_epi16, _mm512_xor_si512,
};

use super::{GROUP, Matrix, Rows};
use crate::quant::{BLOCK, Packing};

/// # Safety
/// The processor must have the instructions of [`Level::Avx512`](super::Level); `x` has `count` rows of the weight's width, padded, and was quantised for its packing.
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
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
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
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn row<const Q4: bool, const X: usize>(weight: &Matrix, at: usize, x: &Rows) -> [f32; X] {
    let (stride, scale_stride) = (4 * weight.row_words(), weight.row_scales());
    let bytes: &[u8] = bytemuck::cast_slice(weight.words());
    let bytes = bytes[at * stride..(at + 1) * stride].as_ptr();
    let scales = weight.scales()[at * scale_stride..(at + 1) * scale_stride].as_ptr();
    let (quants, starts, x_scales) = (x.quants.as_ptr(), x.starts.as_ptr(), x.scales.as_ptr());
    let Rows { width, start_width, scale_width, .. } = *x;
    let blocks = weight.columns() / BLOCK;
    // Blocks that a register of 64 bytes holds.
    let held = if Q4 { 4 } else { 2 };
    // Lane i belongs to block i / (16 / held).
    let block_of_lane = if Q4 {
        _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3)
    } else {
        _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1)
    };
    let mut sums = [_mm512_setzero_ps(); X];
    let mut block = 0;
    // Counted loops over registers, without iterators: the compiler must see every index to keep them out of memory.
    while block < blocks {
        let left = (blocks - block).min(GROUP);
        let mut scale = [_mm512_setzero_ps(); X];
        // SAFETY: the mask has the blocks that the row still has; scales of `x` are padded to whole groups.
        unsafe {
            let mask = ((1_u32 << left) - 1) as u16;
            let own = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, scales.add(block).cast()));
            for index in 0..X {
                scale[index] = _mm512_mul_ps(own, _mm512_loadu_ps(x_scales.add(index * scale_width + block)));
            }
        }
        let mut lanes = block_of_lane;
        let mut from = block;
        while from < block + left {
            // Bytes that the row still has.
            let rest = (blocks - from) * if Q4 { 16 } else { 32 };
            let mask = if rest >= 64 { u64::MAX } else { (1 << rest) - 1 };
            // SAFETY: the mask has just the bytes that the row still has; activations are padded to whole groups.
            unsafe {
                // Not asked for ahead: rows follow one another, and the processor does so by itself.
                let weight = load(bytes.add(from * if Q4 { 16 } else { 32 }), mask);
                for index in 0..X {
                    let quants = quants.add(index * width + from * BLOCK);
                    let starts = starts.add(index * start_width + from * if Q4 { 4 } else { 8 });
                    let products = _mm512_cvtepi32_ps(products::<Q4>(weight, quants, starts));
                    let scale = _mm512_permutexvar_ps(lanes, scale[index]);
                    sums[index] = _mm512_fmadd_ps(products, scale, sums[index]);
                }
            }
            lanes = _mm512_add_epi32(lanes, _mm512_set1_epi32(held as i32));
            from += held;
        }
        block += GROUP;
    }
    let mut found = [0.0; X];
    for index in 0..X {
        found[index] = _mm512_reduce_add_ps(sums[index]);
    }
    found
}

/// # Safety
/// Bytes with a bit in the mask can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn load(bytes: *const u8, mask: u64) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        if mask == u64::MAX { _mm512_loadu_si512(bytes.cast()) } else { _mm512_maskz_loadu_epi8(mask, bytes.cast()) }
    }
}

/// Sums of four (8 bits) or eight (4 bits) products.
///
/// # Safety
/// The processor must have the instructions. A register's activations can be read, two for 4 bits, and what sixteen sums start from.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn products<const Q4: bool>(weight: __m512i, x: *const i8, starts: *const i32) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let (first, starts) = (_mm512_loadu_si512(x.cast()), _mm512_loadu_si512(starts.cast()));
        if Q4 {
            let nibbles = _mm512_set1_epi8(15);
            let low = _mm512_and_si512(weight, nibbles);
            let high = _mm512_and_si512(_mm512_srli_epi16::<4>(weight), nibbles);
            let second = _mm512_loadu_si512(x.add(64).cast());
            _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(starts, low, first), high, second)
        } else {
            // From -128..=127 to 0..=255.
            _mm512_dpbusd_epi32(starts, _mm512_xor_si512(weight, _mm512_set1_epi8(-128)), first)
        }
    }
}
