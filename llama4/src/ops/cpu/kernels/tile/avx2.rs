use std::arch::x86_64::{
    __m256i, _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256, _mm256_cvtepi32_ps, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_set1_epi16,
    _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_slli_epi16, _mm256_storeu_ps,
};

use super::{Ahead, BlockPanel, BlockTile, Sums};
use crate::quant::BLOCK;

/// Weight rows of a panel.
const WIDTH: usize = 16;

/// Weights of 4 bits: sums of a block's products fit 16 bits, 16 · 15 · 127.
///
/// # Safety
/// The processor must have AVX2 and FMA; panel and tile have `blocks` whole blocks, the tile `1..=4` rows.
pub(super) unsafe fn bytes_tile(
    panel: BlockPanel,
    x: BlockTile,
    blocks: usize,
    rows: usize,
    ahead: Ahead,
    sums: &mut Sums,
) {
    // SAFETY: as above.
    unsafe {
        match rows {
            1 => of_rows::<true, 1>(panel, x, blocks, ahead, sums),
            2 => of_rows::<true, 2>(panel, x, blocks, ahead, sums),
            3 => of_rows::<true, 3>(panel, x, blocks, ahead, sums),
            _ => of_rows::<true, 4>(panel, x, blocks, ahead, sums),
        }
    }
}

/// Weights of 8 bits, as the upper halves of 16: sums of a block's products fit 32 bits, 32 · 256 · 128 · 127, and the activations' scales
/// have the 256 taken off.
///
/// # Safety
/// As [`bytes_tile`].
pub(super) unsafe fn pairs_tile(
    panel: BlockPanel,
    x: BlockTile,
    blocks: usize,
    rows: usize,
    ahead: Ahead,
    sums: &mut Sums,
) {
    // SAFETY: as above.
    unsafe {
        match rows {
            1 => of_rows::<false, 1>(panel, x, blocks, ahead, sums),
            2 => of_rows::<false, 2>(panel, x, blocks, ahead, sums),
            3 => of_rows::<false, 3>(panel, x, blocks, ahead, sums),
            _ => of_rows::<false, 4>(panel, x, blocks, ahead, sums),
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
    ahead: Ahead,
    sums: &mut Sums,
) {
    // Words of a block. Not known to the compiler, or it unrolls the loop and keeps nothing in registers.
    let count = std::hint::black_box(BLOCK / 4);
    let ones = _mm256_set1_epi16(1);
    let upper = _mm256_set1_epi16(-256);
    let mut found = [[_mm256_setzero_ps(); 2]; ROWS];
    for block in 0..blocks {
        ahead.ask(block, blocks);
        // SAFETY: words, starts and scales of this block are there.
        unsafe {
            let weight = panel.words.as_ptr().add(block * count * WIDTH);
            let words = x.words.as_ptr().add(block * count * if BYTES { ROWS } else { 2 * ROWS });
            let mut products = [[_mm256_setzero_si256(); 2]; ROWS];
            for word in 0..count {
                let low = _mm256_loadu_si256(weight.add(word * WIDTH).cast());
                let high = _mm256_loadu_si256(weight.add(word * WIDTH + 8).cast());
                if BYTES {
                    for row in 0..ROWS {
                        let x = _mm256_set1_epi32(*words.add(word * ROWS + row) as i32);
                        products[row][0] = add_bytes(products[row][0], low, x);
                        products[row][1] = add_bytes(products[row][1], high, x);
                    }
                } else {
                    // Of four bytes the first and third, then the second and fourth.
                    let (even_low, even_high) = (_mm256_slli_epi16::<8>(low), _mm256_slli_epi16::<8>(high));
                    for row in 0..ROWS {
                        let x = _mm256_set1_epi32(*words.add(2 * word * ROWS + row) as i32);
                        products[row][0] = add_pairs(products[row][0], even_low, x);
                        products[row][1] = add_pairs(products[row][1], even_high, x);
                    }
                    let (odd_low, odd_high) = (_mm256_and_si256(low, upper), _mm256_and_si256(high, upper));
                    for row in 0..ROWS {
                        let x = _mm256_set1_epi32(*words.add((2 * word + 1) * ROWS + row) as i32);
                        products[row][0] = add_pairs(products[row][0], odd_low, x);
                        products[row][1] = add_pairs(products[row][1], odd_high, x);
                    }
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

/// Add the products of four columns to sums of 16 bits.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_bytes(sums: __m256i, weight: __m256i, x: __m256i) -> __m256i {
    _mm256_add_epi16(sums, _mm256_maddubs_epi16(weight, x))
}

/// Add the products of two columns to sums of 32 bits.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_pairs(sums: __m256i, weight: __m256i, x: __m256i) -> __m256i {
    _mm256_add_epi32(sums, _mm256_madd_epi16(weight, x))
}
