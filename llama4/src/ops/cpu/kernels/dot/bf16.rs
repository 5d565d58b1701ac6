//! Rows of `bf16` times activations that are rounded to `bf16`: an instruction takes two products a lane, and nothing is converted.

use std::arch::x86_64::{
    __m256i, __m512, __m512bh, __m512i, __mmask32, _mm256_storeu_si256, _mm512_add_ps, _mm512_cvtneps_pbh,
    _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_maskz_loadu_epi16, _mm512_reduce_add_ps, _mm512_setzero_ps,
    _mm512_setzero_si512,
};
use std::cell::RefCell;
use std::mem::transmute;

use half::bf16;

use super::{MOST, Matrix};

/// Values of a vector, and of one of floats.
const LANES: usize = 32;
const FLOATS: usize = 16;

/// Vectors that a turn of the loop takes.
const TURN: usize = 4;

thread_local! {
    static ROUNDED: RefCell<Vec<u16>> = RefCell::default();
}

/// Whether the processor has the instruction.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512bf16")
}

/// # Safety
/// The processor must have the instructions of [`Level::Avx512`](super::Level) and those of [`is_available`], `x` `count` rows of the weight's
/// width, and the weight values in `bf16`.
pub(super) unsafe fn dots(weight: &Matrix, x: &[f32], count: usize, y: &mut impl FnMut(usize, usize, f32)) {
    ROUNDED.with_borrow_mut(|rounded| {
        rounded.resize(x.len(), 0);
        // SAFETY: the caller's promise.
        unsafe {
            round(x, rounded);
            match count {
                1 => of_count::<1, 1>(weight, rounded, y),
                2 => of_count::<2, 2>(weight, rounded, y),
                3 => of_count::<4, 3>(weight, rounded, y),
                _ => of_count::<4, MOST>(weight, rounded, y),
            }
        }
    });
}

/// To the nearest, of two to the even one.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn round(x: &[f32], rounded: &mut [u16]) {
    let ((vectors, rest), (to, to_rest)) = (x.as_chunks::<FLOATS>(), rounded.as_chunks_mut::<FLOATS>());
    for (vector, to) in vectors.iter().zip(to) {
        // SAFETY: sixteen floats become sixteen values of half their size, whose bits are those of the register.
        unsafe {
            let halves: __m256i = transmute(_mm512_cvtneps_pbh(_mm512_loadu_ps(vector.as_ptr())));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), halves);
        }
    }
    for (value, to) in rest.iter().zip(to_rest) {
        *to = bf16::from_f32(*value).to_bits();
    }
}

/// # Safety
/// As [`dots`]; `x` has `X` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn of_count<const ROWS: usize, const X: usize>(
    weight: &Matrix,
    x: &[u16],
    y: &mut impl FnMut(usize, usize, f32),
) {
    let mut first = 0;
    while first + ROWS <= weight.rows() {
        // SAFETY: rows `first..first + ROWS` are there.
        let sums = unsafe { rows::<ROWS, X>(weight, first, x) };
        for row in 0..ROWS {
            for index in 0..X {
                y(first + row, index, sums[row][index]);
            }
        }
        first += ROWS;
    }
    for row in first..weight.rows() {
        // SAFETY: the row is there.
        let [sums] = unsafe { rows::<1, X>(weight, row, x) };
        for index in 0..X {
            y(row, index, sums[index]);
        }
    }
}

/// # Safety
/// As [`of_count`]; the weight has rows `first..first + ROWS`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn rows<const ROWS: usize, const X: usize>(weight: &Matrix, first: usize, x: &[u16]) -> [[f32; X]; ROWS] {
    let (columns, stride) = (weight.columns(), 2 * weight.row_words());
    let words = &weight.words()[first * weight.row_words()..][..ROWS * weight.row_words()];
    let weight = words.as_ptr().cast::<u16>();
    // A few products have as many sums as a turn has vectors, or they would wait for one another.
    let apart = (TURN / (ROWS * X)).max(1);
    let mut sums = [[[_mm512_setzero_ps(); X]; ROWS]; TURN];
    let mut at = 0;
    // Counted loops over registers, without iterators: the compiler must see every index to keep them out of memory.
    while at + TURN * LANES <= columns {
        for vector in 0..TURN {
            let at = at + vector * LANES;
            // SAFETY: 32 values from `at` on are within the rows and the rows of `x`.
            unsafe { step::<ROWS, X>(weight, stride, x, columns, at, __mmask32::MAX, &mut sums[vector % apart]) };
        }
        at += TURN * LANES;
    }
    while at < columns {
        let mask = ((1_u64 << (columns - at).min(LANES)) - 1) as __mmask32;
        // SAFETY: the mask has just what is left of the row and of the rows of `x`.
        unsafe { step::<ROWS, X>(weight, stride, x, columns, at, mask, &mut sums[0]) };
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
/// Of rows `stride` values apart from `weight` on, values `at + i` with bit `i` of the mask can be read, and so can those of the rows of `x`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn step<const ROWS: usize, const X: usize>(
    weight: *const u16,
    stride: usize,
    x: &[u16],
    columns: usize,
    at: usize,
    mask: __mmask32,
    sums: &mut [[__m512; X]; ROWS],
) {
    let mut xs = [_mm512_setzero_si512(); X];
    for index in 0..X {
        // SAFETY: within row `index` of `x`.
        xs[index] = unsafe { _mm512_maskz_loadu_epi16(mask, x.as_ptr().add(index * columns + at).cast()) };
    }
    for row in 0..ROWS {
        // SAFETY: within row `row` of the weight. It is not asked for ahead: rows follow one another, and the processor does so by itself.
        let weight = unsafe {
            let here = weight.add(row * stride + at);
            _mm512_maskz_loadu_epi16(mask, here.cast())
        };
        for index in 0..X {
            sums[row][index] = _mm512_dpbf16_ps(sums[row][index], halves(weight), halves(xs[index]));
        }
    }
}

/// The same bits as pairs of `bf16`.
#[inline(always)]
fn halves(bits: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes, all of whose bits are values.
    unsafe { transmute(bits) }
}
