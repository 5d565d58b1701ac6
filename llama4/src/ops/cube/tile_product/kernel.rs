use cubecl::cmma;
use cubecl::prelude::barrier::{Barrier, copy_async};
use cubecl::prelude::*;

use super::fragment::{Rows, Steps, pair};
use super::tile::{CHUNK, LINE, OUTPUTS, OWN, PLANE, ROWS, Tile, placed};
use crate::ops::cube::row_tiles::{Division, Share};

/// The output is `f32` if it is to be `wide`, otherwise of the type of `x`. `counts` are the rows of each group.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "a kernel's buffers")]
pub(super) fn tile_product_kernel<X: Float>(
    x: &Array<Line<u32>>,
    weights: &Array<Line<u32>>,
    scales: &Array<u32>,
    counts: &Array<u32>,
    y: &mut Array<Line<u32>>,
    columns: usize,
    all: Division,
    #[comptime] tile: Tile,
    #[comptime] wide: bool,
    #[define(X)] _dtype: StorageType,
) {
    // The plane's number comes by way of another unit, so that the compiler keeps it: it would read it, which is slow, in every stage.
    let (lane, plane) = (UNIT_POS_X as usize % PLANE, plane_broadcast(UNIT_POS_Y as usize, 0u32));
    let (group, quarter) = (lane / 4, lane % 4);
    let (beside, part) = (plane / tile.split, plane % tile.split);

    // A grid of two axes may have cubes too many.
    if CUBE_POS >= all.row_tiles * all.output_tiles {
        terminate!();
    }
    let share = Share::of_cube(counts, &all, tile.grouped);
    if comptime!(tile.grouped) && share.rows == 0 {
        terminate!();
    }
    let outputs = all.outputs;
    let (first_row, rows, first_weight) = (share.first_row, share.rows, share.first_weight);
    let first_output = share.output_tile * comptime!(tile.outputs()) + beside * OUTPUTS;

    let mut xs = SharedMemory::<u32>::new_lined(comptime!(tile.stages * tile.stage_lines()), LINE);
    let mut arrived = Sequence::<Shared<Barrier>>::new();
    #[unroll]
    for _ in 0..tile.stages {
        arrived.push(Barrier::shared(CUBE_DIM, UNIT_POS == 0));
    }
    let stages = columns / comptime!(tile.depth());
    let fetch = Fetch::new(first_row, rows, columns, tile);
    #[unroll]
    for s in 0..comptime!(tile.stages - 1) {
        if s < stages {
            fetch.stage(x, &mut xs, &arrived, s, s.runtime(), tile);
        }
    }

    // A unit has four neighbouring rows of the weight, so that its results are neighbours.
    let source = Rows::new(
        first_weight + first_output + OWN * group,
        first_weight + outputs - 1,
        columns,
        quarter,
        tile.encoding,
    );
    let mut weight = Steps::new();
    let steps = columns / comptime!(tile.encoding.step() * tile.split);
    weight.load(weights, scales, &source, part, tile.encoding);
    weight.advance(tile.encoding);
    let mut sums = Array::<Line<f32>>::lined(comptime!(tile.sums()), 2usize);
    #[unroll]
    for i in 0..comptime!(tile.sums()) {
        sums[i] = Line::empty(2usize).fill(0.0);
    }

    // Where what a unit reads of the first rows is. By way of an exchange the compiler loses sight of it, and the remainder tells it which bits there are:
    // then it knows that what the unit reads of the other rows lies where an instruction can add it.
    let within =
        group * comptime!(tile.row_lines()) + placed(group, quarter * comptime!(tile.encoding.chunks()), tile.encoding);
    let within = plane_shuffle(within, UNIT_POS_PLANE) % comptime!(ROWS * tile.row_lines());
    for stage in 0..stages {
        let slot = stage % tile.stages;
        let turn = (stage / tile.stages % 2) as u32;
        #[unroll]
        for s in 0..tile.stages {
            if slot == s {
                arrived[s].wait_parity(turn);
            }
        }
        // All have done with the stage before, whose place is now free.
        sync_cube();
        let ahead = stage + comptime!(tile.stages - 1);
        if ahead < stages {
            fetch.stage(x, &mut xs, &arrived, ahead, ahead % tile.stages, tile);
        }
        #[unroll]
        for inner in 0..tile.steps {
            let step = stage * tile.steps + inner + 1;
            let after = select(step < steps, step, steps - 1) * tile.split + part;
            weight.load(weights, scales, &source, after, tile.encoding);
            let line = (inner * tile.split + part) * comptime!(tile.encoding.step() / CHUNK);
            multiply::<X>(&mut sums, &xs, &weight, (slot * tile.stage_lines() + within) ^ line, tile);
            weight.advance(tile.encoding);
        }
    }

    if comptime!(tile.split > 1) {
        join(&mut sums, plane, part, lane, tile);
    }
    let output = first_output + group * OWN;
    #[unroll]
    for height in 0..tile.heights {
        #[unroll]
        for side in 0..2usize {
            let row = height * ROWS + quarter * 2 + side;
            if height % tile.split == part && row < rows && output < outputs {
                let mut line = Line::<u32>::empty(comptime!(if wide { OWN } else { OWN / 2 }));
                #[unroll]
                for word in 0..2usize {
                    let (first, second) =
                        (sums[comptime!(height * OWN + 2 * word)], sums[comptime!(height * OWN + 2 * word + 1)]);
                    if comptime!(wide) {
                        line[comptime!(2 * word)] = u32::reinterpret(first[side]);
                        line[comptime!(2 * word + 1)] = u32::reinterpret(second[side]);
                    } else {
                        line[word] = u32::reinterpret(pair::<X>(first[side], second[side]));
                    }
                }
                y[((first_row + row) * outputs + output) / OWN] = line;
            }
        }
    }
}

/// What a unit brings to shared memory of each part of the rows of `x`: one vector of some of them.
#[derive(CubeType)]
struct Fetch {
    /// Where the tile's first row has it.
    source: usize,
    /// Vectors of a row.
    stride: usize,
    /// The first of its rows, and the last there is.
    row: usize,
    last: usize,
    to: usize,
}

#[cube]
impl Fetch {
    fn new(first_row: usize, rows: usize, columns: usize, #[comptime] tile: Tile) -> Fetch {
        let (width, stride) = (comptime!(tile.row_lines()), columns / CHUNK);
        let (row, line) = (UNIT_POS as usize / width, UNIT_POS as usize % width);
        let to = row * width + placed(row, line, tile.encoding);
        Fetch { source: first_row * stride + line, stride, row, last: rows - 1, to }
    }

    /// Have part `stage` of the rows brought to its place; beyond the last they are the last.
    fn stage(
        &self,
        x: &Array<Line<u32>>,
        xs: &mut SharedMemory<Line<u32>>,
        arrived: &Sequence<Shared<Barrier>>,
        stage: usize,
        slot: usize,
        #[comptime] tile: Tile,
    ) {
        let first = self.source + stage * comptime!(tile.row_lines());
        let to = slot * tile.stage_lines() + self.to;
        #[unroll]
        for i in 0..comptime!(tile.stage_lines().div_ceil(tile.units())) {
            let at = UNIT_POS as usize + comptime!(i * tile.units());
            if comptime!(tile.stage_lines().is_multiple_of(tile.units())) || at < comptime!(tile.stage_lines()) {
                let row = self.row + comptime!(i * tile.rows_between());
                let source = first + min(row, self.last) * self.stride;
                let place = to + comptime!(i * tile.units());
                copy_async(&x.slice(source, source + 1), &mut xs.slice_mut(place, place + 1), 4u32);
            }
        }
        #[unroll]
        for s in 0..tile.stages {
            if slot == s {
                arrived[s].commit_copy_async();
                arrived[s].arrive();
            }
        }
    }
}

/// Add the products of one step, of which the unit's vectors of the first rows begin at `place`.
#[cube]
fn multiply<X: Float>(
    sums: &mut Array<Line<f32>>,
    xs: &SharedMemory<Line<u32>>,
    weight: &Steps,
    place: usize,
    #[comptime] tile: Tile,
) {
    let definition = cmma::MmaDefinition::<X, X, f32>::new(16usize, 8usize, 16usize);
    #[unroll]
    for chunk in 0..comptime!(tile.encoding.chunks()) {
        let fragments = weight.fragments::<X>(chunk, tile.encoding);
        #[unroll]
        for height in 0..tile.heights {
            let values = xs[(place ^ chunk) + comptime!(height * ROWS * tile.row_lines())];
            #[unroll]
            for half in 0..2usize {
                let mut b = Array::<Line<X>>::lined(2usize, 2usize);
                b[0] = Line::<X>::reinterpret(values[comptime!(2 * half)]);
                b[1] = Line::<X>::reinterpret(values[comptime!(2 * half + 1)]);
                #[unroll]
                for rows in 0..comptime!(OWN / 2) {
                    let at = comptime!(height * OWN + 2 * rows);
                    let mut c = Array::<Line<f32>>::lined(2usize, 2usize);
                    c[0] = sums[at];
                    c[1] = sums[comptime!(at + 1)];
                    let d = definition.execute(fragments.index(comptime!(half * OWN / 2 + rows)), &b, &c);
                    sums[at] = d[0];
                    sums[comptime!(at + 1)] = d[1];
                }
            }
        }
    }
}

/// Add the sums of the planes that share outputs; each plane gets those of some fragments of `x`.
#[cube]
fn join(sums: &mut Array<Line<f32>>, plane: usize, part: usize, lane: usize, #[comptime] tile: Tile) {
    let mut joined = SharedMemory::<f32>::new_lined(comptime!(tile.joined()), 2usize);
    let all = comptime!(tile.sums() * PLANE);
    #[unroll]
    for i in 0..comptime!(tile.sums()) {
        joined[plane * all + comptime!(i * PLANE) + lane] = sums[i];
    }
    sync_cube();
    let first = (plane - part) * all + lane;
    #[unroll]
    for i in 0..comptime!(tile.sums()) {
        if comptime!(i / OWN) % tile.split == part {
            let mut sum = Line::<f32>::empty(2usize).fill(0.0);
            #[unroll]
            for p in 0..tile.split {
                sum += joined[first + comptime!(p * all + i * PLANE)];
            }
            sums[i] = sum;
        }
    }
}
