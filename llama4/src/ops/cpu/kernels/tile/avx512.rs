use std::arch::x86_64::{
    _mm512_cvtepi32_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mul_ps,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

use super::{BlockPanel, BlockTile, Sums};
use crate::quant::BLOCK;

/// Words of a block.
const WORDS: usize = BLOCK / 4;
/// Weight rows of a panel.
const WIDTH: usize = 32;

/// # Safety
/// The processor must have AVX-512 with VNNI; panel and tile have `blocks` whole blocks, the tile `1..=6` rows.
pub(super) unsafe fn bytes_tile(panel: BlockPanel, x: BlockTile, blocks: usize, rows: usize, sums: &mut Sums) {
    // SAFETY: as above.
    unsafe {
        match rows {
            1 => of_rows::<1>(panel, x, blocks, sums),
            2 => of_rows::<2>(panel, x, blocks, sums),
            3 => of_rows::<3>(panel, x, blocks, sums),
            4 => of_rows::<4>(panel, x, blocks, sums),
            5 => of_rows::<5>(panel, x, blocks, sums),
            _ => of_rows::<6>(panel, x, blocks, sums),
        }
    }
}

/// # Safety
/// As [`bytes_tile`], of `ROWS` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn of_rows<const ROWS: usize>(panel: BlockPanel, x: BlockTile, blocks: usize, sums: &mut Sums) {
    let mut found = [[_mm512_setzero_ps(); 2]; ROWS];
    for block in 0..blocks {
        // SAFETY: words, starts and scales of this block are there.
        unsafe {
            let weight = panel.words.as_ptr().add(block * WORDS * WIDTH);
            let words = x.words.as_ptr().add(block * WORDS * ROWS);
            let starts = x.starts.as_ptr().add(block * ROWS);
            let mut products = [[_mm512_set1_epi32(0); 2]; ROWS];
            for (row, products) in products.iter_mut().enumerate() {
                *products = [_mm512_set1_epi32(*starts.add(row)); 2];
            }
            for word in 0..WORDS {
                let low = _mm512_loadu_si512(weight.add(word * WIDTH).cast());
                let high = _mm512_loadu_si512(weight.add(word * WIDTH + 16).cast());
                for (row, products) in products.iter_mut().enumerate() {
                    let x = _mm512_set1_epi32(*words.add(word * ROWS + row) as i32);
                    products[0] = _mm512_dpbusd_epi32(products[0], low, x);
                    products[1] = _mm512_dpbusd_epi32(products[1], high, x);
                }
            }
            let scales = panel.scales.as_ptr().add(block * WIDTH);
            let (low, high) = (_mm512_loadu_ps(scales), _mm512_loadu_ps(scales.add(16)));
            for (row, (found, products)) in found.iter_mut().zip(products).enumerate() {
                let scale = _mm512_set1_ps(*x.scales.as_ptr().add(block * ROWS + row));
                let [first, second] = products.map(|products| _mm512_cvtepi32_ps(products));
                found[0] = _mm512_fmadd_ps(first, _mm512_mul_ps(low, scale), found[0]);
                found[1] = _mm512_fmadd_ps(second, _mm512_mul_ps(high, scale), found[1]);
            }
        }
    }
    for (sums, found) in sums.iter_mut().zip(found) {
        // SAFETY: a row of sums is as wide as the panel.
        unsafe {
            _mm512_storeu_ps(sums.as_mut_ptr(), found[0]);
            _mm512_storeu_ps(sums.as_mut_ptr().add(16), found[1]);
        }
    }
}
