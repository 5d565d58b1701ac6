use std::arch::x86_64::{
    __m512, __mmask16, _mm256_maskz_loadu_epi16, _mm512_add_ps, _mm512_castsi512_ps, _mm512_cvtepu16_epi32,
    _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_maskz_loadu_ps, _mm512_reduce_add_ps, _mm512_setzero_ps,
    _mm512_slli_epi32,
};

use super::{BF16, F16, F32, MOST, Matrix};
use crate::quant::Packing;

/// Values of a vector.
const LANES: usize = 16;

/// Vectors that a turn of the loop takes.
const TURN: usize = 4;

/// # Safety
/// The processor must have the instructions of [`Level::Avx512`](super::Level), and `x` `count` rows of the weight's width.
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
            1 => of_count::<FORMAT, 1, 1>(weight, x, y),
            2 => of_count::<FORMAT, 2, 2>(weight, x, y),
            3 => of_count::<FORMAT, 4, 3>(weight, x, y),
            _ => of_count::<FORMAT, 4, MOST>(weight, x, y),
        }
    }
}

/// # Safety
/// As [`of_format`]; `x` has `X` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn of_count<const FORMAT: u8, const ROWS: usize, const X: usize>(
    weight: &Matrix,
    x: &[f32],
    y: &mut impl FnMut(usize, usize, f32),
) {
    let mut first = 0;
    while first + ROWS <= weight.rows() {
        // SAFETY: rows `first..first + ROWS` are there.
        let sums = unsafe { rows::<FORMAT, ROWS, X>(weight, first, x) };
        for row in 0..ROWS {
            for index in 0..X {
                y(first + row, index, sums[row][index]);
            }
        }
        first += ROWS;
    }
    for row in first..weight.rows() {
        // SAFETY: the row is there.
        let [sums] = unsafe { rows::<FORMAT, 1, X>(weight, row, x) };
        for index in 0..X {
            y(row, index, sums[index]);
        }
    }
}

/// # Safety
/// As [`of_count`]; the weight has rows `first..first + ROWS`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn rows<const FORMAT: u8, const ROWS: usize, const X: usize>(
    weight: &Matrix,
    first: usize,
    x: &[f32],
) -> [[f32; X]; ROWS] {
    let (columns, stride) = (weight.columns(), weight.row_words());
    let words = weight.words()[first * stride..(first + ROWS) * stride].as_ptr();
    // A few products have as many sums as a turn has vectors, or they would wait for one another.
    let apart = (TURN / (ROWS * X)).max(1);
    let mut sums = [[[_mm512_setzero_ps(); X]; ROWS]; TURN];
    let mut at = 0;
    // Counted loops over registers, without iterators: the compiler must see every index to keep them out of memory.
    while at + TURN * LANES <= columns {
        for vector in 0..TURN {
            let at = at + vector * LANES;
            // SAFETY: sixteen values from `at` on are within the rows and the rows of `x`.
            unsafe { step::<FORMAT, ROWS, X>(words, stride, x, columns, at, 0xffff, &mut sums[vector % apart]) };
        }
        at += TURN * LANES;
    }
    while at < columns {
        let mask = ((1_u32 << (columns - at).min(LANES)) - 1) as __mmask16;
        // SAFETY: the mask has just what is left of the row and of the rows of `x`.
        unsafe { step::<FORMAT, ROWS, X>(words, stride, x, columns, at, mask, &mut sums[0]) };
        at += LANES;
    }
    let mut found = [[0.0; X]; ROWS];
    for row in 0..ROWS {
        for index in 0..X {
            let mut whole = sums[0][row][index];
            for other in 1..apart {
                whole = _mm512_add_ps(whole, sums[other][row][index]);
            }
            found[row][index] = _mm512_reduce_add_ps(whole);
        }
    }
    found
}

/// # Safety
/// Of rows `stride` words apart from `words` on, values `at + i` with bit `i` of the mask can be read, and so can those of the rows of `x`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn step<const FORMAT: u8, const ROWS: usize, const X: usize>(
    words: *const u32,
    stride: usize,
    x: &[f32],
    columns: usize,
    at: usize,
    mask: __mmask16,
    sums: &mut [[__m512; X]; ROWS],
) {
    let mut xs = [_mm512_setzero_ps(); X];
    for index in 0..X {
        // SAFETY: within row `index` of `x`.
        xs[index] = unsafe { _mm512_maskz_loadu_ps(mask, x.as_ptr().add(index * columns + at)) };
    }
    for row in 0..ROWS {
        // SAFETY: within row `row` of the weight. It is not asked for ahead: rows follow one another, and the processor does so by itself.
        let weight = unsafe { load::<FORMAT>(words.add(row * stride), at, mask) };
        for index in 0..X {
            sums[row][index] = _mm512_fmadd_ps(weight, xs[index], sums[row][index]);
        }
    }
}

/// Sixteen values of a row as floats, zero where the mask has no bit.
///
/// # Safety
/// Values `at + i` with bit `i` of the mask can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn load<const FORMAT: u8>(row: *const u32, at: usize, mask: __mmask16) -> __m512 {
    // SAFETY: the caller's promise, for 32-bit or 16-bit values.
    unsafe {
        match FORMAT {
            F32 => _mm512_maskz_loadu_ps(mask, row.cast::<f32>().add(at)),
            BF16 => {
                let halves = _mm256_maskz_loadu_epi16(mask, row.cast::<i16>().add(at));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
            }
            _ => _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, row.cast::<i16>().add(at))),
        }
    }
}
