//! The product of a step where there are no tensor cores that take it: every unit multiplies the values that it has loaded, in `f32`.

use cubecl::prelude::*;

use super::LINE;
use super::tiles::{Step, Tile};
use crate::ops::cube::decode::{byte, half_to_f32, nibble};
use crate::quant::Packing;

/// Add the products of what a unit has of the weight with the row of `x`: of the upper row and of the lower.
#[cube]
pub(super) fn multiply_alone<X: Float>(
    weight: &Step,
    totals: &mut Array<f32>,
    xs: &SharedMemory<Line<u32>>,
    step: usize,
    quarter: usize,
    #[comptime] tile: Tile,
) {
    let four_bits = comptime!(tile.packing == Packing::Q4);
    #[unroll]
    for load in 0..comptime!(tile.loads()) {
        // The block of this unit's vector, of eight, the first line of its `x` in that, and the half of the word with its scale.
        let (block, line, side) = if comptime!(four_bits) {
            (comptime!(4 * load) + quarter, 0usize.runtime(), quarter % 2)
        } else {
            (comptime!(2 * load) + quarter / 2, quarter % 2 * 2, quarter / 2)
        };
        let first = (step * 8 + block) * comptime!(4 * tile.vectors() + 1) + line * comptime!(tile.vectors());
        let mut upper = 0.0_f32;
        let mut lower = 0.0_f32;
        #[unroll]
        for word in 0..LINE {
            let low = four::<X>(xs, first, comptime!(word / 2), comptime!(word % 2), tile);
            let mut high = low;
            if comptime!(four_bits) {
                high = four::<X>(xs, first, comptime!(2 + word / 2), comptime!(word % 2), tile);
            }
            let (u, l) = (weight.values[load][word], weight.values[comptime!(tile.loads() + load)][word]);
            #[unroll]
            for value in 0..4usize {
                if comptime!(four_bits) {
                    upper = fma(nibble(u, comptime!(2 * value)), low[value], upper);
                    lower = fma(nibble(l, comptime!(2 * value)), low[value], lower);
                    upper = fma(nibble(u, comptime!(2 * value + 1)), high[value], upper);
                    lower = fma(nibble(l, comptime!(2 * value + 1)), high[value], lower);
                } else {
                    upper = fma(byte(u, value), low[value], upper);
                    lower = fma(byte(l, value), low[value], lower);
                }
            }
        }
        let shift = side as u32 * 16;
        let upper_scale = half_to_f32((weight.scales[load] >> shift) & 0xffff);
        let lower_scale = half_to_f32((weight.scales[comptime!(tile.loads() + load)] >> shift) & 0xffff);
        totals[0] = fma(upper_scale, upper, totals[0]);
        totals[1] = fma(lower_scale, lower, totals[1]);
    }
}

/// Half of line `line` of `x`, counted from vector `first` on, in the order of the row.
#[cube]
fn four<X: Float>(
    xs: &SharedMemory<Line<u32>>,
    first: usize,
    #[comptime] line: usize,
    #[comptime] half: usize,
    #[comptime] tile: Tile,
) -> Line<f32> {
    let mut values = Line::<f32>::empty(LINE);
    if comptime!(tile.single) {
        let words = xs[first + comptime!(2 * line + half)];
        #[unroll]
        for value in 0..LINE {
            values[value] = f32::reinterpret(words[value]);
        }
    } else {
        // Values 1 and 2 of every four are exchanged.
        let words = xs[first + line];
        #[unroll]
        for word in 0..2usize {
            let pair = Line::<X>::reinterpret(words[comptime!(2 * half + word)]);
            values[word] = f32::cast_from(pair[0]);
            values[comptime!(word + 2)] = f32::cast_from(pair[1]);
        }
    }
    values
}
