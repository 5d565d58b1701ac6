use burn::tensor::f16;
use cubecl::cmma;
use cubecl::prelude::*;

use super::stage::{Source, Stage};
use super::tile::{APART, FRAGMENT, OWN, PLANE, PLANE_OUTPUTS, Tile, placed};
use crate::ops::cube::row_tiles::{Division, Share};
use crate::ops::cube::values::LINE;

/// `counts` are the rows of each group.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "a kernel's buffers")]
pub(super) fn staged_product_kernel<Y: Float>(
    x: &Array<Line<u32>>,
    weights: &Array<Line<u32>>,
    scales: &Array<u32>,
    counts: &Array<u32>,
    y: &mut Array<Y>,
    columns: usize,
    scale_words: usize,
    all: Division,
    #[comptime] tile: Tile,
    #[define(Y)] _dtype: StorageType,
) {
    // A grid of two axes may have cubes too many.
    if CUBE_POS >= all.row_tiles * all.output_tiles {
        terminate!();
    }
    let share = Share::of_cube(counts, &all, tile.grouped);
    if comptime!(tile.grouped) && share.rows == 0 {
        terminate!();
    }
    let outputs = all.outputs;
    let first_output = share.output_tile * tile.outputs;
    let (last_row, first_weight) = (share.first_row + share.rows - 1, share.first_weight + first_output);
    let of_x = Source { first: share.first_row, last: last_row, columns, scale_words };
    let of_weight = Source { first: first_weight, last: share.first_weight + outputs - 1, columns, scale_words };
    let (x_part, weight_part) = comptime!((tile.part_of_x(), tile.part_of_weight()));
    let mut xs = SharedMemory::<u32>::new_lined(comptime!(tile.lines(x_part)), LINE);
    let mut ws = SharedMemory::<u32>::new_lined(comptime!(tile.lines(weight_part)), LINE);
    let mut x_stage = Stage::new(x_part, tile);
    let mut weight_stage = Stage::new(weight_part, tile);
    let steps = columns / tile.depth;
    let first = 0usize.runtime();
    weight_stage.load(weights, scales, &of_weight, first, weight_part, tile);
    x_stage.load(x, scales, &of_x, first, x_part, tile);

    // Of planes whose cores multiply, else of units.
    let fragments = no_sums(tile);
    let mut sums = Array::<f32>::new(comptime!(tile.sums()));
    #[unroll]
    for i in 0..comptime!(tile.sums()) {
        sums[i] = 0.0;
    }
    // The first row and output in the cube.
    let (row, output) = if comptime!(tile.cores) {
        let (plane, beside) = (UNIT_POS as usize / PLANE, comptime!(tile.planes_beside()));
        (plane / beside * comptime!(tile.plane_rows()), plane % beside * PLANE_OUTPUTS)
    } else {
        let (unit, beside) = (UNIT_POS as usize, comptime!(tile.outputs / OWN));
        (unit / beside, unit % beside)
    };
    for step in 0..steps {
        weight_stage.put(&mut ws, step, weight_part, tile);
        x_stage.put(&mut xs, step, x_part, tile);
        sync_cube();
        let next = select(step + 1 < steps, step + 1, step);
        weight_stage.load(weights, scales, &of_weight, next, weight_part, tile);
        x_stage.load(x, scales, &of_x, next, x_part, tile);
        if comptime!(tile.cores) {
            multiply_fragments(&fragments, &xs, &ws, row, output, tile);
        } else {
            for line in 0..comptime!(tile.row_lines()).runtime() {
                multiply_line(&mut sums, &xs, &ws, row, output, line, tile);
            }
        }
        sync_cube();
    }
    if comptime!(tile.cores) {
        write_fragments(y, &fragments, &share, row, output, outputs, tile);
    } else {
        write_sums(y, &sums, &share, row, output, outputs, tile);
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

/// Write the sums of a unit.
#[cube]
fn write_sums<Y: Float>(
    y: &mut Array<Y>,
    sums: &Array<f32>,
    share: &Share,
    row: usize,
    output: usize,
    outputs: usize,
    #[comptime] tile: Tile,
) {
    #[unroll]
    for r in 0..comptime!(tile.rows / APART) {
        let to_row = row + comptime!(r * APART);
        #[unroll]
        for o in 0..OWN {
            let to_output = share.output_tile * tile.outputs + output + comptime!(o * (tile.outputs / OWN));
            if to_row < share.rows && to_output < outputs {
                y[(share.first_row + to_row) * outputs + to_output] = Y::cast_from(sums[comptime!(r * OWN + o)]);
            }
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
