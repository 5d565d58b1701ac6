//! The kernels: rows of up to three weights times one row of activations. Each kind binds what it reads and no more, since every tensor that is
//! bound costs a launch host time.

use cubecl::prelude::*;

use super::super::LINE;
use super::super::input::stage_input;
use super::super::tiles::{STEP, Step, TILE, Tile};
use super::super::units::multiply_alone;
use super::{Kind, Plan};

/// [`Kind::Rows`].
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "of a kernel")]
pub(super) fn rows_kernel<S: Float, X: Float, Y: Float>(
    x: &Array<Line<S>>,
    gamma: &Array<Line<X>>,
    w0: &Array<Line<u32>>,
    s0: &Array<u32>,
    w1: &Array<Line<u32>>,
    s1: &Array<u32>,
    w2: &Array<Line<u32>>,
    s2: &Array<u32>,
    y: &mut Array<Y>,
    #[comptime] plan: Plan,
    #[define(S, X, Y)] _dtypes: [StorageType; 3],
) {
    fused::<S, X, Y, u32, u32>(x, gamma, w0, s0, w1, s1, w2, s2, s0, s0, y, 0usize, plan);
}

/// [`Kind::Gated`].
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "of a kernel")]
pub(super) fn gated_kernel<S: Float, X: Float, Y: Float>(
    x: &Array<Line<S>>,
    gamma: &Array<Line<X>>,
    w0: &Array<Line<u32>>,
    s0: &Array<u32>,
    w1: &Array<Line<u32>>,
    s1: &Array<u32>,
    w2: &Array<Line<u32>>,
    s2: &Array<u32>,
    logits: &Array<f32>,
    y: &mut Array<Y>,
    #[comptime] experts: usize,
    #[comptime] plan: Plan,
    #[define(S, X, Y)] _dtypes: [StorageType; 3],
) {
    fused::<S, X, Y, f32, u32>(x, gamma, w0, s0, w1, s1, w2, s2, logits, s0, y, experts, plan);
}

/// [`Kind::Sum`] of one weight.
#[cube(launch_unchecked)]
pub(super) fn sum_kernel<X: Float, Y: Float>(
    x: &Array<Line<X>>,
    w0: &Array<Line<u32>>,
    s0: &Array<u32>,
    residual: &Array<Y>,
    y: &mut Array<Y>,
    #[comptime] plan: Plan,
    #[define(X, Y)] _dtypes: [StorageType; 2],
) {
    fused::<X, X, Y, u32, Y>(x, x, w0, s0, w0, s0, w0, s0, s0, residual, y, 0usize, plan);
}

/// [`Kind::Sum`] with a chosen expert.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "of a kernel")]
pub(super) fn chosen_sum_kernel<X: Float, Y: Float>(
    x: &Array<Line<X>>,
    w0: &Array<Line<u32>>,
    s0: &Array<u32>,
    w1: &Array<Line<u32>>,
    s1: &Array<u32>,
    logits: &Array<f32>,
    residual: &Array<Y>,
    y: &mut Array<Y>,
    #[comptime] experts: usize,
    #[comptime] plan: Plan,
    #[define(X, Y)] _dtypes: [StorageType; 2],
) {
    fused::<X, X, Y, f32, Y>(x, x, w0, s0, w1, s1, w1, s1, logits, residual, y, experts, plan);
}

/// What all of them are. Of the arrays it reads those that its kind has; others may be anything.
#[cube]
#[allow(clippy::too_many_arguments, reason = "of a kernel")]
fn fused<S: Float, X: Float, Y: Float, L: Numeric, Q: Numeric>(
    x: &Array<Line<S>>,
    gamma: &Array<Line<X>>,
    w0: &Array<Line<u32>>,
    s0: &Array<u32>,
    w1: &Array<Line<u32>>,
    s1: &Array<u32>,
    w2: &Array<Line<u32>>,
    s2: &Array<u32>,
    logits: &Array<L>,
    residual: &Array<Q>,
    y: &mut Array<Y>,
    #[comptime] experts: usize,
    #[comptime] plan: Plan,
) {
    let tile = comptime!(plan.tile);
    // Numbers of the model are constants: on wgpu, what a launch is given besides is one more buffer.
    let (tiles, rows0, rows1) = (plan.tiles.runtime(), plan.rows[0].runtime(), plan.rows[1].runtime());
    let (lane, part) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let mut xs = SharedMemory::<u32>::new_lined(comptime!(tile.row_vectors()), LINE);
    let mut x_sums = SharedMemory::<f32>::new(comptime!(tile.row_sums()));
    let mut joined = SharedMemory::<f32>::new(comptime!(2 * TILE * tile.shares()));
    let mut now = Step::new(tile);
    let mut next = Step::new(tile);
    let (mut expert, mut score) = (0usize.runtime(), 1.0_f32.runtime());

    // Weights are on their way while the expert is found and `x` is prepared, unless they are the expert's.
    let mut number = CUBE_POS;
    let known = is_known(number, part, rows0, plan);
    if known {
        load_step(&mut now, w0, s0, w1, s1, w2, s2, number, part, lane, rows0, rows1, expert, tiles, 0usize, plan);
    }
    if comptime!(experts > 0) {
        let mut highest = f32::cast_from(logits[0]);
        #[unroll]
        for i in 1..experts {
            let logit = f32::cast_from(logits[i]);
            expert = select(logit > highest, i, expert);
            highest = select(logit > highest, logit, highest);
        }
        score = 1.0 / (1.0 + f32::exp(-highest));
    }
    if !known {
        load_step(&mut now, w0, s0, w1, s1, w2, s2, number, part, lane, rows0, rows1, expert, tiles, 0usize, plan);
    }
    stage_input::<S, X>(x, 0usize.runtime(), gamma, &mut xs, &mut x_sums, tile, plan.norm);
    sync_cube();

    let rounds = tiles.div_ceil(CUBE_COUNT);
    for round in 0..rounds {
        let turn = round % 2 * comptime!(TILE);
        let mut totals = Array::<f32>::new(2usize);
        totals[0] = 0.0;
        totals[1] = 0.0;
        if comptime!(tile.cores) {
            #[unroll]
            for s in 0..comptime!(plan.steps()) {
                load_step(
                    &mut next,
                    w0,
                    s0,
                    w1,
                    s1,
                    w2,
                    s2,
                    number,
                    part,
                    lane,
                    rows0,
                    rows1,
                    expert,
                    tiles,
                    comptime!(s + 1),
                    plan,
                );
                now.multiply::<X>(&mut totals, &xs, &x_sums, part + comptime!(s * tile.split), lane, tile);
                now.take(&next, tile);
            }
        } else {
            // A loop, since a step is long without tensor cores.
            let steps = comptime!(plan.steps()).runtime();
            for s in 0..steps {
                let last = s + 1 == steps;
                let from = number + select(last, CUBE_COUNT, 0);
                let step = part + select(last, 0, (s + 1) * tile.split);
                if from < tiles {
                    load(&mut next, w0, s0, w1, s1, w2, s2, from, step, lane, rows0, rows1, expert, plan);
                }
                multiply_alone::<X>(&now, &mut totals, &xs, part + s * tile.split, lane % 4, tile);
                now.take(&next, tile);
            }
        }
        #[unroll]
        for half in 0..2usize {
            let row = turn + comptime!(half * 8) + lane / 4;
            if comptime!(tile.cores) {
                let pair = totals[half] + plane_shuffle_xor(totals[half], 1u32);
                let four = pair + plane_shuffle_xor(pair, 2u32);
                if lane % 4 == 0 {
                    joined[row * tile.split + part] = four;
                }
            } else {
                joined[row * tile.shares() + part * 4 + lane % 4] = totals[half];
            }
        }
        sync_cube();
        let at = UNIT_POS as usize;
        if comptime!(plan.kind == Kind::Gated) {
            if at < 8 && number < tiles {
                let output = number * 8 + at;
                let factor = select(output < rows0, 1.0_f32, score);
                let gate = factor * total(&joined, turn + at, tile);
                let up = factor * total(&joined, turn + at + 8, tile);
                y[output] = Y::cast_from(gate / (1.0 + f32::exp(-gate)) * up);
            }
        } else {
            if at < TILE && number < tiles {
                let output = number * TILE + at;
                let mut sum = total(&joined, turn + at, tile);
                if comptime!(plan.kind == Kind::Sum) {
                    sum += f32::cast_from(residual[output]);
                }
                y[output] = Y::cast_from(sum);
            }
        }
        number += CUBE_COUNT;
    }
}

/// The sum of all planes for a row.
#[cube]
fn total(joined: &SharedMemory<f32>, row: usize, #[comptime] tile: Tile) -> f32 {
    let mut sum = 0.0_f32;
    #[unroll]
    for part in 0..comptime!(tile.shares()) {
        sum += joined[row * comptime!(tile.shares()) + part];
    }
    sum
}

/// Whether the first weights of a plane can be found without the expert's number.
#[cube]
fn is_known(number: usize, part: usize, rows0: usize, #[comptime] plan: Plan) -> bool {
    if comptime!(plan.kind == Kind::Gated) {
        number * 8 < rows0
    } else {
        comptime!(!plan.routed) && part < comptime!(plan.columns / STEP)
    }
}

/// Step `s` of tile `number` of a plane's, or of one behind it; where there is none, nothing.
#[cube]
fn load_step(
    to: &mut Step,
    w0: &Array<Line<u32>>,
    s0: &Array<u32>,
    w1: &Array<Line<u32>>,
    s1: &Array<u32>,
    w2: &Array<Line<u32>>,
    s2: &Array<u32>,
    number: usize,
    part: usize,
    lane: usize,
    rows0: usize,
    rows1: usize,
    expert: usize,
    tiles: usize,
    #[comptime] s: usize,
    #[comptime] plan: Plan,
) {
    let (later, s) = comptime!((s / plan.steps(), s % plan.steps()));
    let number = number + later * CUBE_COUNT;
    if number < tiles {
        let step = part + comptime!(s * plan.tile.split);
        load(to, w0, s0, w1, s1, w2, s2, number, step, lane, rows0, rows1, expert, plan);
    }
}

/// The two rows of a tile that a unit loads, from the weights that they are in.
#[cube]
fn load(
    to: &mut Step,
    w0: &Array<Line<u32>>,
    s0: &Array<u32>,
    w1: &Array<Line<u32>>,
    s1: &Array<u32>,
    w2: &Array<Line<u32>>,
    s2: &Array<u32>,
    number: usize,
    step: usize,
    lane: usize,
    rows0: usize,
    rows1: usize,
    expert: usize,
    #[comptime] plan: Plan,
) {
    let (row, quarter, tile) = (lane / 4, lane % 4, comptime!(plan.tile));
    if comptime!(plan.kind == Kind::Rows) {
        let upper = number * TILE + row;
        if upper < rows0 {
            to.load_half(w0, s0, 0usize, upper, step, quarter, plan.columns, tile);
            to.load_half(w0, s0, 1usize, upper + 8, step, quarter, plan.columns, tile);
        } else if upper < rows0 + rows1 {
            to.load_half(w1, s1, 0usize, upper - rows0, step, quarter, plan.columns, tile);
            to.load_half(w1, s1, 1usize, upper - rows0 + 8, step, quarter, plan.columns, tile);
        } else {
            let upper = upper - rows0 - rows1;
            to.load_half(w2, s2, 0usize, upper, step, quarter, plan.columns, tile);
            to.load_half(w2, s2, 1usize, upper + 8, step, quarter, plan.columns, tile);
        }
    } else if comptime!(plan.kind == Kind::Gated) {
        let gate = number * 8 + row;
        if gate < rows0 {
            to.load_half(w0, s0, 0usize, gate, step, quarter, plan.columns, tile);
            to.load_half(w1, s1, 1usize, gate, step, quarter, plan.columns, tile);
        } else {
            let gate = expert * 2 * rows1 + gate - rows0;
            to.load_half(w2, s2, 0usize, gate, step, quarter, plan.columns, tile);
            to.load_half(w2, s2, 1usize, gate + rows1, step, quarter, plan.columns, tile);
        }
    } else {
        let mut upper = number * TILE + row;
        if comptime!(plan.routed) {
            upper += expert * rows0;
        }
        let first = comptime!(plan.columns / STEP);
        if comptime!(plan.columns == tile.columns) || step < first {
            to.load_half(w0, s0, 0usize, upper, step, quarter, plan.columns, tile);
            to.load_half(w0, s0, 1usize, upper + 8, step, quarter, plan.columns, tile);
        } else {
            let upper = expert * rows0 + upper;
            let columns = comptime!(tile.columns - plan.columns);
            to.load_half(w1, s1, 0usize, upper, step - first, quarter, columns, tile);
            to.load_half(w1, s1, 1usize, upper + 8, step - first, quarter, columns, tile);
        }
    }
}
