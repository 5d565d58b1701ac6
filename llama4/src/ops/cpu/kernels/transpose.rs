//! Rows of words into columns: how a band of a weight becomes a panel.

use super::level::Level;

/// `to[column, row] = from[row, column]`: `rows` rows of `from`, `stride` words apart, and `columns` columns; rows of `to` are `width` words.
/// Rows from `rows` to `width` become zeros.
pub(super) fn transpose(
    level: Level,
    from: &[u32],
    stride: usize,
    rows: usize,
    columns: usize,
    to: &mut [u32],
    width: usize,
) {
    transpose_flipped(level, from, stride, [rows, columns], 0, to, width);
}

/// As [`transpose`], with the bits of `flip` turned over in every word that comes from `from`.
pub(super) fn transpose_flipped(
    level: Level,
    from: &[u32],
    stride: usize,
    [rows, columns]: [usize; 2],
    flip: u32,
    to: &mut [u32],
    width: usize,
) {
    assert!(rows <= width && columns <= stride, "rows that fit");
    assert!(rows == 0 || from.len() >= (rows - 1) * stride + columns, "whole rows");
    assert_eq!(to.len(), columns * width);
    // Rows and columns of which a kernel does what they have in common.
    #[cfg(target_arch = "x86_64")]
    let [whole_rows, whole] = match level {
        Level::Portable => [0, 0],
        _ => {
            let whole = [rows, columns].map(|count| count / 8 * 8);
            // SAFETY: the level has AVX2; the lengths were just checked, and these are multiples of 8 within them.
            unsafe { avx2::transpose(from.as_ptr(), stride, whole, flip, to.as_mut_ptr(), width) };
            whole
        }
    };
    #[cfg(not(target_arch = "x86_64"))]
    let [whole_rows, whole] = [0, 0];
    let _ = level;
    for row in 0..width {
        let begin = if row < whole_rows { whole } else { 0 };
        for column in begin..columns {
            to[column * width + row] = if row < rows { from[row * stride + column] ^ flip } else { 0 };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256, _mm256_castpd_ps, _mm256_castps_pd, _mm256_castsi256_ps, _mm256_loadu_ps, _mm256_permute2f128_ps,
        _mm256_set1_epi32, _mm256_storeu_ps, _mm256_unpackhi_pd, _mm256_unpackhi_ps, _mm256_unpacklo_pd,
        _mm256_unpacklo_ps, _mm256_xor_ps,
    };

    /// # Safety
    /// The processor must have AVX2; `rows` and `columns`, multiples of 8, can be read from rows `stride` words apart and written to columns
    /// `width` apart.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn transpose(
        from: *const u32,
        stride: usize,
        [rows, columns]: [usize; 2],
        flip: u32,
        to: *mut u32,
        width: usize,
    ) {
        let flip = _mm256_castsi256_ps(_mm256_set1_epi32(flip.cast_signed()));
        for row in (0..rows).step_by(8) {
            for column in (0..columns).step_by(8) {
                // SAFETY: the caller's promise, as row + 8 <= rows and column + 8 <= columns.
                unsafe {
                    transpose_8x8(from.add(row * stride + column), stride, flip, to.add(column * width + row), width);
                }
            }
        }
    }

    /// # Safety
    /// The processor must have AVX2; eight rows of eight words, `stride` and `width` apart, can be read and written.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn transpose_8x8(from: *const u32, stride: usize, flip: __m256, to: *mut u32, width: usize) {
        // SAFETY: the caller's promise.
        let row = |row: usize| unsafe { _mm256_xor_ps(_mm256_loadu_ps(from.add(row * stride).cast()), flip) };
        let pairs = |a, b| (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (a0, a1) = pairs(row(0), row(1));
        let (a2, a3) = pairs(row(2), row(3));
        let (a4, a5) = pairs(row(4), row(5));
        let (a6, a7) = pairs(row(6), row(7));
        let fours = |a, b| {
            let (a, b) = (_mm256_castps_pd(a), _mm256_castps_pd(b));
            (_mm256_castpd_ps(_mm256_unpacklo_pd(a, b)), _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)))
        };
        let (b0, b1) = fours(a0, a2);
        let (b2, b3) = fours(a1, a3);
        let (b4, b5) = fours(a4, a6);
        let (b6, b7) = fours(a5, a7);
        for (column, (low, high)) in [(b0, b4), (b1, b5), (b2, b6), (b3, b7)].into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                let to = to.add(column * width);
                _mm256_storeu_ps(to.cast(), _mm256_permute2f128_ps::<0x20>(low, high));
                _mm256_storeu_ps(to.add(4 * width).cast(), _mm256_permute2f128_ps::<0x31>(low, high));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_finds_its_place() {
        for level in Level::available() {
            for (rows, columns, width) in [(16, 16, 16), (13, 21, 16), (8, 7, 8), (1, 40, 32), (0, 3, 8), (32, 64, 32)]
            {
                let stride = columns + 3;
                let from: Vec<u32> = (1..=(rows * stride) as u32).collect();
                for flip in [0, 0x8080_0001] {
                    let mut to = vec![u32::MAX; columns * width];
                    transpose_flipped(level, &from, stride, [rows, columns], flip, &mut to, width);
                    for (column, row) in (0..columns).flat_map(|column| (0..width).map(move |row| (column, row))) {
                        let expected = if row < rows { from[row * stride + column] ^ flip } else { 0 };
                        assert_eq!(to[column * width + row], expected, "{level}: row {row}, column {column}");
                    }
                }
            }
        }
    }
}
