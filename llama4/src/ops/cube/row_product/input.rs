//! The one row of activations that a decoded token's products share.

use cubecl::prelude::*;

use super::LINE;
use super::tiles::{PLANE, Tile};

/// Bring a row of `x`, whose vectors begin at `first`, or its norm to shared memory as [`Step`](super::tiles::Step) wants it: values 1 and 2
/// of every four exchanged, behind them a line of zeros for each of a block's four, and the sums of its blocks; or without tensor cores an unused
/// vector behind each block, and values of `f32` in their own order.
#[cube]
#[allow(clippy::too_many_arguments, reason = "of a kernel")]
pub(super) fn stage_input<S: Float, X: Float>(
    x: &Array<Line<S>>,
    first: usize,
    gamma: &Array<Line<X>>,
    xs: &mut SharedMemory<Line<u32>>,
    x_sums: &mut SharedMemory<f32>,
    #[comptime] tile: Tile,
    #[comptime] norm: Option<u32>,
) {
    let normed = comptime!(norm.is_some());
    let unit = UNIT_POS as usize;
    let total = comptime!(tile.lines());
    let units = comptime!(PLANE * tile.split);
    // Lines of a unit that are under way together: with a norm, all of them.
    let ahead = comptime!(total.div_ceil(units).min(if normed { 8 } else { 4 }));
    let mut values = Array::<Line<f32>>::lined(comptime!(2 * ahead), LINE);
    let mut start = 0usize.runtime();
    while start < total {
        let mut squares = 0.0_f32;
        #[unroll]
        for a in 0..ahead {
            let line = start + comptime!(a * units) + unit;
            let from = select(line < total, line, 0) * 2;
            values[comptime!(2 * a)] = Line::<f32>::cast_from(x[first + from]);
            values[comptime!(2 * a + 1)] = Line::<f32>::cast_from(x[first + from + 1]);
            if comptime!(normed) {
                let both = values[comptime!(2 * a)] * values[comptime!(2 * a)]
                    + values[comptime!(2 * a + 1)] * values[comptime!(2 * a + 1)];
                squares += select(line < total, both[0] + both[1] + both[2] + both[3], 0.0);
            }
        }
        let mut factor = 1.0_f32;
        if comptime!(normed) {
            let mut parts = SharedMemory::<f32>::new(tile.split);
            if comptime!(tile.cores) {
                let sum = plane_sum(squares);
                if UNIT_POS_X == 0 {
                    parts[UNIT_POS_Y as usize] = sum;
                }
            } else {
                // Whatever planes the device has.
                let mut all = SharedMemory::<f32>::new(units);
                all[unit] = squares;
                sync_cube();
                if unit < comptime!(tile.split) {
                    let mut sum = 0.0_f32;
                    #[unroll]
                    for other in 0..PLANE {
                        sum += all[unit * PLANE + other];
                    }
                    parts[unit] = sum;
                }
            }
            sync_cube();
            let mut all = 0.0_f32;
            #[unroll]
            for part in 0..tile.split {
                all += parts[part];
            }
            factor =
                1.0 / f32::sqrt(all / comptime!(tile.columns as f32) + comptime!(f32::from_bits(norm.unwrap_or(0))));
        }
        #[unroll]
        for a in 0..ahead {
            let line = start + comptime!(a * units) + unit;
            let at = select(line < total, line, 0);
            let mut turned = Line::<u32>::empty(LINE);
            let mut sum = 0.0_f32;
            #[unroll]
            for half in 0..2usize {
                let mut four = Line::<X>::cast_from(values[comptime!(2 * a + half)]);
                if comptime!(normed) {
                    // Rounded in between, as the plain definition is.
                    let scaled = Line::<X>::cast_from(values[comptime!(2 * a + half)] * Line::empty(LINE).fill(factor));
                    let weighted = Line::<f32>::cast_from(scaled) * Line::<f32>::cast_from(gamma[at * 2 + half]);
                    four = Line::<X>::cast_from(weighted);
                }
                if comptime!(tile.single) {
                    #[unroll]
                    for value in 0..LINE {
                        turned[value] = u32::reinterpret(f32::cast_from(four[value]));
                    }
                    if line < total {
                        xs[place(line, tile) + half] = turned;
                    }
                } else {
                    #[unroll]
                    for k in 0..2usize {
                        let mut pair = Line::<X>::empty(2usize);
                        pair[0] = four[k];
                        pair[1] = four[comptime!(k + 2)];
                        turned[comptime!(2 * half + k)] = u32::reinterpret(pair);
                    }
                }
                if comptime!(tile.cores) {
                    sum += (f32::cast_from(four[0]) + f32::cast_from(four[1]))
                        + (f32::cast_from(four[2]) + f32::cast_from(four[3]));
                }
            }
            if comptime!(tile.cores) {
                sum += plane_shuffle_xor(sum, 1u32);
                sum += plane_shuffle_xor(sum, 2u32);
            }
            if comptime!(!tile.single) && line < total {
                xs[place(line, tile)] = turned;
                if comptime!(tile.cores) && line.is_multiple_of(4) {
                    x_sums[line / 4] = sum;
                }
            }
        }
        start += comptime!(ahead * units);
    }
    if comptime!(tile.cores) && unit < 4 {
        xs[total + unit] = Line::<u32>::empty(LINE).fill(0);
    }
}

/// Where a line of a row is in shared memory.
#[cube]
fn place(line: usize, #[comptime] tile: Tile) -> usize {
    if comptime!(tile.cores) { line } else { line * comptime!(tile.vectors()) + line / 4 }
}
