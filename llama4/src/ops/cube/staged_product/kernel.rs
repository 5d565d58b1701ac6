use burn::tensor::f16;
use cubecl::cmma;
use cubecl::prelude::*;

use super::stage::{Source, Stage};
use super::tile::{APART, FRAGMENT, OWN, PLANE, PLANE_OUTPUTS, Tile, placed};
use crate::ops::cube::row_tiles::Share;
use crate::ops::cube::values::LINE;

/// `table` has an entry for each tile of rows, if rows are of several groups.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "a kernel's buffers")]
pub(super) fn staged_product_kernel<Y: Float>(
    x: &Array<Line<u32>>,
    weights: &Array<Line<u32>>,
    scales: &Array<u32>,
    table: &Array<Line<u32>>,
    y: &mut Array<Y>,
    columns: usize,
    scale_words: usize,
    outputs: usize,
    all_rows: usize,
    row_tiles: usize,
    output_tiles: usize,
    #[comptime] tile: Tile,
    #[define(Y)] _dtype: StorageType,
) {
    // A grid of two axes may have cubes too many.
    if CUBE_POS >= row_tiles * output_tiles {
        terminate!();
    }
    let share = Share::of_cube(table, all_rows, row_tiles, output_tiles, tile.rows, tile.grouped);
    let first_output = share.output_tile * tile.outputs;
    let (last_row, first_weight) = (share.first_row + share.rows - 1, share.first_weight + first_output);
    let of_x = Source { first: share.first_row, last: last_row, columns, scale_words };
    let of_weight = Source { first: first_weight, last: share.first_weight + outputs - 1, columns, scale_words };
    let mut xs = SharedMemory::<u32>::new_lined(comptime!(tile.rows * tile.stride()), LINE);
    let mut ws = SharedMemory::<u32>::new_lined(comptime!(tile.outputs * tile.stride()), LINE);
    let mut stage_x = Stage::new(tile.rows, tile.x, tile);
    let mut stage_w = Stage::new(tile.outputs, tile.weight, tile);
    let steps = columns / tile.depth;
    let first = 0usize.runtime();
    stage_w.load(weights, scales, &of_weight, first, tile.outputs, tile.weight, tile);
    stage_x.load(x, scales, &of_x, first, tile.rows, tile.x, tile);

    if comptime!(tile.cores) {
        let plane = UNIT_POS as usize / PLANE;
        let beside = comptime!(tile.planes_beside());
        let (row, output) = (plane / beside * comptime!(tile.plane_rows()), plane % beside * PLANE_OUTPUTS);
        let sums = no_sums(tile);
        for step in 0..steps {
            stage_w.put(&mut ws, step, tile.outputs, tile.weight, tile);
            stage_x.put(&mut xs, step, tile.rows, tile.x, tile);
            sync_cube();
            let next = select(step + 1 < steps, step + 1, step);
            stage_w.load(weights, scales, &of_weight, next, tile.outputs, tile.weight, tile);
            stage_x.load(x, scales, &of_x, next, tile.rows, tile.x, tile);
            multiply_fragments(&sums, &xs, &ws, row, output, tile);
            sync_cube();
        }
        write_fragments(y, &sums, &share, row, output, outputs, tile);
    } else {
        let unit = UNIT_POS as usize;
        let beside = comptime!(tile.outputs / OWN);
        let (row, output) = (unit / beside, unit % beside);
        let mut sums = Array::<f32>::new(comptime!(tile.sums()));
        #[unroll]
        for i in 0..comptime!(tile.sums()) {
            sums[i] = 0.0;
        }
        for step in 0..steps {
            stage_w.put(&mut ws, step, tile.outputs, tile.weight, tile);
            stage_x.put(&mut xs, step, tile.rows, tile.x, tile);
            sync_cube();
            let next = select(step + 1 < steps, step + 1, step);
            stage_w.load(weights, scales, &of_weight, next, tile.outputs, tile.weight, tile);
            stage_x.load(x, scales, &of_x, next, tile.rows, tile.x, tile);
            for line in 0..comptime!(tile.row_lines()).runtime() {
                multiply_line(&mut sums, &xs, &ws, row, output, line, tile);
            }
            sync_cube();
        }
        #[unroll]
        for r in 0..comptime!(tile.rows / APART) {
            let to_row = row + comptime!(r * APART);
            #[unroll]
            for o in 0..OWN {
                let to_output = first_output + output + comptime!(o * (tile.outputs / OWN));
                if to_row < share.rows && to_output < outputs {
                    y[(share.first_row + to_row) * outputs + to_output] = Y::cast_from(sums[comptime!(r * OWN + o)]);
                }
            }
        }
    }
}

/// Add the products of four values of each of a unit's rows and outputs.
#[cube]
fn multiply_line(
    sums: &mut Array<f32>,
    xs: &SharedMemory<Line<u32>>,
    ws: &SharedMemory<Line<u32>>,
    row: usize,
    output: usize,
    line: usize,
    #[comptime] tile: Tile,
) {
    let mut weights = Array::<Line<u32>>::lined(OWN, LINE);
    #[unroll]
    for o in 0..OWN {
        weights[o] = ws[placed(output + comptime!(o * (tile.outputs / OWN)), line, tile)];
    }
    #[unroll]
    for r in 0..comptime!(tile.rows / APART) {
        let values = xs[placed(row + comptime!(r * APART), line, tile)];
        #[unroll]
        for o in 0..OWN {
            let mut sum = sums[comptime!(r * OWN + o)];
            #[unroll]
            for value in 0..LINE {
                sum = fma(f32::reinterpret(values[value]), f32::reinterpret(weights[o][value]), sum);
            }
            sums[comptime!(r * OWN + o)] = sum;
        }
    }
}

/// The sums of a plane, row of fragments after row.
#[cube]
fn no_sums(#[comptime] tile: Tile) -> Sequence<cmma::Matrix<f32>> {
    let mut sums = Sequence::<cmma::Matrix<f32>>::new();
    #[unroll]
    for _ in 0..comptime!(tile.fragments().0 * tile.fragments().1) {
        sums.push(cmma::Matrix::<f32>::from_value(
            cmma::MatrixIdent::Accumulator,
            FRAGMENT,
            FRAGMENT,
            FRAGMENT,
            cmma::MatrixLayout::Undefined,
            0.0_f32,
        ));
    }
    sums
}

/// Add the products of what is in shared memory for the plane whose rows and outputs of the cube begin there.
#[cube]
fn multiply_fragments(
    sums: &Sequence<cmma::Matrix<f32>>,
    xs: &SharedMemory<Line<u32>>,
    ws: &SharedMemory<Line<u32>>,
    row: usize,
    output: usize,
    #[comptime] tile: Tile,
) {
    let (down, beside) = comptime!(tile.fragments());
    #[unroll]
    for part in 0..comptime!(tile.depth / FRAGMENT) {
        let line = comptime!(part * FRAGMENT / tile.line_values());
        let mut weights = Sequence::<cmma::Matrix<f16>>::new();
        #[unroll]
        for o in 0..beside {
            let layout = cmma::MatrixLayout::ColMajor;
            weights.push(fragment(ws, output + comptime!(o * FRAGMENT), line, cmma::MatrixIdent::B, layout, tile));
        }
        #[unroll]
        for r in 0..down {
            let layout = cmma::MatrixLayout::RowMajor;
            let values = fragment(xs, row + comptime!(r * FRAGMENT), line, cmma::MatrixIdent::A, layout, tile);
            #[unroll]
            for o in 0..beside {
                let sum = sums.index(comptime!(r * tile.fragments().1 + o));
                cmma::execute::<f16, f16, f32, f32>(&values, weights.index(o), sum, sum);
            }
        }
    }
}

/// Rows from `row` on, each from vector `line` on.
#[cube]
fn fragment(
    shared: &SharedMemory<Line<u32>>,
    row: usize,
    #[comptime] line: usize,
    #[comptime] ident: cmma::MatrixIdent,
    #[comptime] layout: cmma::MatrixLayout,
    #[comptime] tile: Tile,
) -> cmma::Matrix<f16> {
    // SAFETY: it is loaded before it is used.
    let fragment = unsafe { cmma::Matrix::<f16>::uninitialized(ident, FRAGMENT, FRAGMENT, FRAGMENT, layout) };
    let first = row * comptime!(tile.stride()) + line;
    // In words, as which the vectors are bound.
    let apart = comptime!((tile.stride() * LINE) as u32).runtime();
    cmma::load(&fragment, &shared.slice(first, first + comptime!(FRAGMENT * tile.stride())), apart);
    fragment
}

/// Write the sums of the plane whose rows and outputs of the cube begin there.
#[cube]
fn write_fragments<Y: Float>(
    y: &mut Array<Y>,
    sums: &Sequence<cmma::Matrix<f32>>,
    share: &Share,
    row: usize,
    output: usize,
    outputs: usize,
    #[comptime] tile: Tile,
) {
    let (down, beside) = comptime!(tile.fragments());
    let mut patches = SharedMemory::<f32>::new(comptime!(tile.patches()));
    let first = UNIT_POS as usize / PLANE * comptime!(FRAGMENT * FRAGMENT);
    let lane = UNIT_POS as usize % PLANE;
    #[unroll]
    for r in 0..down {
        #[unroll]
        for o in 0..beside {
            cmma::store(
                &mut patches.slice_mut(first, first + comptime!(FRAGMENT * FRAGMENT)),
                sums.index(comptime!(r * tile.fragments().1 + o)),
                comptime!(FRAGMENT as u32).runtime(),
                cmma::MatrixLayout::RowMajor,
            );
            sync_cube();
            #[unroll]
            for value in 0..comptime!(FRAGMENT * FRAGMENT / PLANE) {
                let at = lane + comptime!(value * PLANE);
                let to_row = row + comptime!(r * FRAGMENT) + at / FRAGMENT;
                let to_output = share.output_tile * tile.outputs + output + comptime!(o * FRAGMENT) + at % FRAGMENT;
                if to_row < share.rows && to_output < outputs {
                    y[(share.first_row + to_row) * outputs + to_output] = Y::cast_from(patches[first + at]);
                }
            }
            sync_cube();
        }
    }
}
