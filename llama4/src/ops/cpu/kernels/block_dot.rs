//! Quantised weight rows times a few rows of activations in 8 bits: sums of a block are integers, and exact.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use super::activations::{Activations, GROUP, Rows, place_q4, together};
use super::half::f16_to_f32;
use super::level::{Level, at_levels};
use super::matrix::Matrix;
use crate::quant::{BLOCK, Packing};

/// Rows of activations that one pass over the weight takes.
pub(super) const MOST: usize = 4;

/// `y(row of the weight, row of x)` for all rows of `weight` and rows `first..first + count` of `x`, `1..=MOST`, which was quantised for
/// the weight's packing.
pub(super) fn dots(
    level: Level,
    weight: &Matrix,
    x: &Activations,
    first: usize,
    count: usize,
    mut y: impl FnMut(usize, usize, f32),
) {
    assert!((1..=MOST).contains(&count) && first + count <= x.rows(), "a few rows that are there");
    assert_eq!(x.width(), weight.columns().next_multiple_of(GROUP * BLOCK), "rows as wide as the weight's");
    let x = x.rows_from(first);
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has the level's instructions; widths and rows were just compared.
        Level::Avx512 => unsafe { avx512::dots(weight, &x, count, &mut y) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { avx2::dots(weight, &x, count, &mut y) },
        _ => plain_dots(level, weight, &x, count, &mut y),
    }
}

fn plain_dots(level: Level, weight: &Matrix, x: &Rows, count: usize, y: &mut impl FnMut(usize, usize, f32)) {
    let (words, scales) = (weight.row_words(), weight.row_scales());
    for row in 0..weight.rows() {
        let bytes: &[u8] = bytemuck::cast_slice(&weight.words()[row * words..][..words]);
        let scales = &weight.scales()[row * scales..][..weight.columns() / BLOCK];
        for index in 0..count {
            let quants = &x.quants[index * x.width..][..x.width];
            let x_scales = &x.scales[index * x.scale_width..][..x.scale_width];
            let sum = match weight.packing() {
                Some(Packing::Q4) => dot_q4(level, together(level), bytes, scales, quants, x_scales),
                _ => dot_q8(level, bytes, scales, quants, x_scales),
            };
            y(row, index, sum);
        }
    }
}

at_levels! {
    fn dot_q8(level: Level, weight: &[u8], scales: &[u16], x: &[i8], x_scales: &[f32]) -> f32 {
        let blocks = weight.as_chunks::<BLOCK>().0.iter().zip(x.as_chunks::<BLOCK>().0);
        let mut sum = 0.0;
        for ((weight, x), (scale, x_scale)) in blocks.zip(scales.iter().zip(x_scales)) {
            let products = weight.iter().zip(x).map(|(&weight, &x)| i32::from(weight as i8) * i32::from(x));
            sum += products.sum::<i32>() as f32 * (f16_to_f32(*scale) * x_scale);
        }
        sum
    }
}

at_levels! {
    fn dot_q4(level: Level, together: usize, weight: &[u8], scales: &[u16], x: &[i8], x_scales: &[f32]) -> f32 {
        let mut sum = 0.0;
        for (index, ((weight, scale), x_scale)) in weight.as_chunks::<16>().0.iter().zip(scales).zip(x_scales).enumerate() {
            let at = place_q4(together, index);
            let (low, high) = (&x[at..at + 16], &x[at + 16 * together..at + 16 * together + 16]);
            // Bytes first: of those, some levels add four products at once.
            let (lows, highs) = (weight.map(|byte| (byte & 15) as i8 - 8), weight.map(|byte| (byte >> 4) as i8 - 8));
            let dot = |a: &[i8; 16], b: &[i8]| a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum::<i32>();
            sum += (dot(&lows, low) + dot(&highs, high)) as f32 * (f16_to_f32(*scale) * x_scale);
        }
        sum
    }
}
