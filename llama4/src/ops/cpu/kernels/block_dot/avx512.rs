use std::arch::x86_64::{
    __m512, __m512i, _mm256_maskz_loadu_epi16, _mm512_add_epi32, _mm512_and_si512, _mm512_cvtepi32_ps, _mm512_cvtph_ps,
    _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_maskz_loadu_epi8, _mm512_mul_ps,
    _mm512_permutexvar_ps, _mm512_reduce_add_ps, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_setr_epi32,
    _mm512_setzero_ps, _mm512_srli_epi16, _mm512_xor_si512,
};

use super::{Activations, GROUP, Matrix};
use crate::quant::{BLOCK, Packing};

/// # Safety
/// The processor must have the instructions of [`Level::Avx512`](super::Level); `x` has rows `first..first + count` of the weight's width,
/// padded, and was quantised for its packing.
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
            (Some(Packing::Q4), 1) => of_count::<true, 4, 1>(weight, x, first, y),
            (Some(Packing::Q4), 2) => of_count::<true, 4, 2>(weight, x, first, y),
            (Some(Packing::Q4), 3) => of_count::<true, 2, 3>(weight, x, first, y),
            (Some(Packing::Q4), _) => of_count::<true, 2, 4>(weight, x, first, y),
            (_, 1) => of_count::<false, 4, 1>(weight, x, first, y),
            (_, 2) => of_count::<false, 4, 2>(weight, x, first, y),
            (_, 3) => of_count::<false, 2, 3>(weight, x, first, y),
            (_, _) => of_count::<false, 2, 4>(weight, x, first, y),
        }
    }
}

/// # Safety
/// As [`dots`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
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
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn rows<const Q4: bool, const ROWS: usize, const X: usize>(
    weight: &Matrix,
    at: usize,
    x: &Activations,
    first: usize,
) -> [[f32; X]; ROWS] {
    let (stride, scale_stride) = (4 * weight.row_words(), weight.row_scales());
    let bytes: &[u8] = bytemuck::cast_slice(weight.words());
    let bytes = bytes[at * stride..(at + ROWS) * stride].as_ptr();
    let scales = weight.scales()[at * scale_stride..(at + ROWS) * scale_stride].as_ptr();
    let (quants, starts, x_scales) = (x.quants(first).as_ptr(), x.starts(first).as_ptr(), x.scales(first).as_ptr());
    let (width, start_width, scale_width) = (x.width(), x.starts(first).len(), x.scales(first).len());
    let blocks = weight.columns() / BLOCK;
    // Blocks that a register of 64 bytes holds, and how often it holds some in a group.
    let held = if Q4 { 4 } else { 2 };
    let steps = GROUP / held;
    // Lane i belongs to block i / (16 / held).
    let block_of_lane = if Q4 {
        _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3)
    } else {
        _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1)
    };
    let mut sums = [[_mm512_setzero_ps(); X]; ROWS];
    let mut block = 0;
    while block < blocks {
        let left = (blocks - block).min(GROUP);
        let mut scale = [[_mm512_setzero_ps(); X]; ROWS];
        for (row, scale) in scale.iter_mut().enumerate() {
            // SAFETY: the mask has the blocks that the row still has; scales of `x` are padded to whole groups.
            unsafe {
                let mask = ((1_u32 << left) - 1) as u16;
                let own =
                    _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, scales.add(row * scale_stride + block).cast()));
                for (index, scale) in scale.iter_mut().enumerate() {
                    *scale = _mm512_mul_ps(own, _mm512_loadu_ps(x_scales.add(index * scale_width + block)));
                }
            }
        }
        let mut lanes = block_of_lane;
        for step in 0..steps {
            let from = block + step * held;
            if from >= blocks {
                break;
            }
            // Bytes that the row still has.
            let rest = (blocks - from) * if Q4 { 16 } else { 32 };
            let mask = if rest >= 64 { u64::MAX } else { (1 << rest) - 1 };
            let mut xs = [[_mm512_set1_epi8(0); 3]; X];
            for (index, xs) in xs.iter_mut().enumerate() {
                // SAFETY: activations are padded to whole groups.
                unsafe {
                    let quants = quants.add(index * width + from * BLOCK);
                    let start = starts.add(index * start_width + from * if Q4 { 4 } else { 8 });
                    xs[0] = _mm512_loadu_si512(quants.cast());
                    xs[1] = if Q4 { _mm512_loadu_si512(quants.add(64).cast()) } else { xs[0] };
                    xs[2] = _mm512_loadu_si512(start.cast());
                }
            }
            for (row, (sums, scale)) in sums.iter_mut().zip(&scale).enumerate() {
                let place = row * stride + from * if Q4 { 16 } else { 32 };
                // SAFETY: the mask has just the bytes that the row still has.
                let weight = unsafe { load(bytes.add(place), mask) };
                for ((sum, scale), xs) in sums.iter_mut().zip(scale).zip(&xs) {
                    let products = _mm512_cvtepi32_ps(products::<Q4>(weight, xs));
                    *sum = _mm512_fmadd_ps(products, _mm512_permutexvar_ps(lanes, *scale), *sum);
                }
            }
            lanes = _mm512_add_epi32(lanes, _mm512_set1_epi32(held as i32));
        }
        block += GROUP;
    }
    sums.map(|sums: [__m512; X]| sums.map(|sum| _mm512_reduce_add_ps(sum)))
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

/// Sums of four (8 bits) or eight (4 bits) products; `x` are low and high halves and what to start from.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn products<const Q4: bool>(weight: __m512i, x: &[__m512i; 3]) -> __m512i {
    if Q4 {
        let nibbles = _mm512_set1_epi8(15);
        let low = _mm512_and_si512(weight, nibbles);
        let high = _mm512_and_si512(_mm512_srli_epi16::<4>(weight), nibbles);
        _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(x[2], low, x[0]), high, x[1])
    } else {
        // From -128..=127 to 0..=255.
        _mm512_dpbusd_epi32(x[2], _mm512_xor_si512(weight, _mm512_set1_epi8(-128)), x[0])
    }
}
