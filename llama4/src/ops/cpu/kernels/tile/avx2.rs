use std::arch::x86_64::{
    __m256i, _mm256_add_epi16, _mm256_add_epi32, _mm256_cvtepi32_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_set1_epi16, _mm256_set1_epi32,
    _mm256_set1_ps, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_storeu_ps,
};

use super::{BlockPanel, BlockTile, Sums};
use crate::quant::BLOCK;

/// Weight rows of a panel.
const WIDTH: usize = 16;

/// Weights of 4 bits: sums of a block's products fit 16 bits, 16 · 15 · 127.
///
/// # Safety
/// The processor must have AVX2 and FMA; panel and tile have `blocks` whole blocks, the tile `1..=3` rows.
pub(super) unsafe fn bytes_tile(panel: BlockPanel, x: BlockTile, blocks: usize, rows: usize, sums: &mut Sums) {
    // SAFETY: as above.
    unsafe {
        match rows {
            1 => of_rows::<true, 1>(panel, x, blocks, sums),
            2 => of_rows::<true, 2>(panel, x, blocks, sums),
            _ => of_rows::<true, 3>(panel, x, blocks, sums),
        }
    }
}

/// Weights of 8 bits, widened to 16.
///
/// # Safety
/// As [`bytes_tile`].
pub(super) unsafe fn pairs_tile(panel: BlockPanel, x: BlockTile, blocks: usize, rows: usize, sums: &mut Sums) {
    // SAFETY: as above.
    unsafe {
        match rows {
            1 => of_rows::<false, 1>(panel, x, blocks, sums),
            2 => of_rows::<false, 2>(panel, x, blocks, sums),
            _ => of_rows::<false, 3>(panel, x, blocks, sums),
        }
    }
}

/// # Safety
/// As [`bytes_tile`], of `ROWS` rows.
#[target_feature(enable = "avx2,fma")]
unsafe fn of_rows<const BYTES: bool, const ROWS: usize>(
    panel: BlockPanel,
    x: BlockTile,
    blocks: usize,
    sums: &mut Sums,
) {
    // Words of a block.
    let count = if BYTES { BLOCK / 4 } else { BLOCK / 2 };
    let ones = _mm256_set1_epi16(1);
    let mut found = [[_mm256_setzero_ps(); 2]; ROWS];
    for block in 0..blocks {
        // SAFETY: words, starts and scales of this block are there.
        unsafe {
            let weight = panel.words.as_ptr().add(block * count * WIDTH);
            let words = x.words.as_ptr().add(block * count * ROWS);
            let mut products = [[_mm256_setzero_si256(); 2]; ROWS];
            for word in 0..count {
                let low = _mm256_loadu_si256(weight.add(word * WIDTH).cast());
                let high = _mm256_loadu_si256(weight.add(word * WIDTH + 8).cast());
                for row in 0..ROWS {
                    let x = _mm256_set1_epi32(*words.add(word * ROWS + row) as i32);
                    products[row][0] = add::<BYTES>(products[row][0], low, x);
                    products[row][1] = add::<BYTES>(products[row][1], high, x);
                }
            }
            let scales = panel.scales.as_ptr().add(block * WIDTH);
            for row in 0..ROWS {
                let scale = _mm256_set1_ps(*x.scales.as_ptr().add(block * ROWS + row));
                let start = _mm256_set1_epi32(*x.starts.as_ptr().add(block * ROWS + row));
                for half in 0..2 {
                    let mut whole = products[row][half];
                    if BYTES {
                        whole = _mm256_add_epi32(_mm256_madd_epi16(whole, ones), start);
                    }
                    let scale = _mm256_mul_ps(_mm256_loadu_ps(scales.add(8 * half)), scale);
                    found[row][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole), scale, found[row][half]);
                }
            }
        }
    }
    for row in 0..ROWS {
        // SAFETY: a row of sums is as wide as the widest panel.
        unsafe {
            _mm256_storeu_ps(sums[row].as_mut_ptr(), found[row][0]);
            _mm256_storeu_ps(sums[row].as_mut_ptr().add(8), found[row][1]);
        }
    }
}

/// Add the products of four columns to sums of 16 bits, or of two columns to sums of 32.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add<const BYTES: bool>(sums: __m256i, weight: __m256i, x: __m256i) -> __m256i {
    if BYTES {
        _mm256_add_epi16(sums, _mm256_maddubs_epi16(weight, x))
    } else {
        _mm256_add_epi32(sums, _mm256_madd_epi16(weight, x))
    }
}
