use std::arch::x86_64::{
    _mm512_cvtepi32_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mul_ps,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

use super::{Ahead, BlockPanel, BlockTile, Sums};
use crate::quant::BLOCK;

/// Words of a block.
const WORDS: usize = BLOCK / 4;
/// Weight rows of a panel.
const WIDTH: usize = 32;

/// # Safety
/// The processor must have AVX-512 with VNNI; panel and tile have `blocks` whole blocks, the tile `1..=6` rows.
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
            1 => of_rows::<1>(panel, x, blocks, ahead, sums),
            2 => of_rows::<2>(panel, x, blocks, ahead, sums),
            3 => of_rows::<3>(panel, x, blocks, ahead, sums),
            4 => of_rows::<4>(panel, x, blocks, ahead, sums),
            5 => of_rows::<5>(panel, x, blocks, ahead, sums),
            _ => of_rows::<6>(panel, x, blocks, ahead, sums),
        }
    }
}

/// # Safety
/// As [`bytes_tile`], of `ROWS` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn of_rows<const ROWS: usize>(panel: BlockPanel, x: BlockTile, blocks: usize, ahead: Ahead, sums: &mut Sums) {
    let mut found = [[_mm512_setzero_ps(); 2]; ROWS];
    for block in 0..blocks {
        ahead.ask(block, blocks);
        // SAFETY: words, starts and scales of this block are there.
        unsafe {
            let weight = panel.words.as_ptr().add(block * WORDS * WIDTH);
            let words = x.words.as_ptr().add(block * WORDS * ROWS);
            let starts = x.starts.as_ptr().add(block * ROWS);
            let mut products = [[_mm512_set1_epi32(0); 2]; ROWS];
            for row in 0..ROWS {
                products[row] = [_mm512_set1_epi32(*starts.add(row)); 2];
            }
            for word in 0..WORDS {
                let low = _mm512_loadu_si512(weight.add(word * WIDTH).cast());
                let high = _mm512_loadu_si512(weight.add(word * WIDTH + 16).cast());
                for row in 0..ROWS {
                    let x = _mm512_set1_epi32(*words.add(word * ROWS + row) as i32);
                    products[row][0] = _mm512_dpbusd_epi32(products[row][0], low, x);
                    products[row][1] = _mm512_dpbusd_epi32(products[row][1], high, x);
                }
            }
            let scales = panel.scales.as_ptr().add(block * WIDTH);
            for row in 0..ROWS {
                let scale = _mm512_set1_ps(*x.scales.as_ptr().add(block * ROWS + row));
                for half in 0..2 {
                    let scale = _mm512_mul_ps(_mm512_loadu_ps(scales.add(16 * half)), scale);
                    let products = _mm512_cvtepi32_ps(products[row][half]);
                    found[row][half] = _mm512_fmadd_ps(products, scale, found[row][half]);
                }
            }
        }
    }
    for row in 0..ROWS {
        // SAFETY: a row of sums is as wide as the panel.
        unsafe {
            _mm512_storeu_ps(sums[row].as_mut_ptr(), found[row][0]);
            _mm512_storeu_ps(sums[row].as_mut_ptr().add(16), found[row][1]);
        }
    }
}
