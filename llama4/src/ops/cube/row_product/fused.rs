//! Products of a decoded token together with what surrounds them: the norm before, SwiGLU or the residual after, and the expert that the
//! router chose, whose number stays on the device. For packed weights; on tensor cores where the device has those that take them.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::input::stage_input;
use super::tiles::{CUBES, PLANE, STEP, Step, TILE, Tile};
use super::units::multiply_alone;
use super::{LINE, PackedRows};
use crate::ops::cube::args::{array, empty, words};
use crate::quant::Packing;

#[cfg(test)]
thread_local! {
    /// For tests on devices whose tensor cores would be used.
    pub(in crate::ops::cube) static WITHOUT_CORES: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// RMS norm of the input.
pub(in crate::ops) struct Norm<'a, R: CubeRuntime> {
    /// `[in]`, of the type of the activations.
    pub(in crate::ops) weight: &'a CubeTensor<R>,
    pub(in crate::ops) epsilon: f64,
}

/// An expert of several, one after another in the rows of a weight.
pub(in crate::ops) struct Chosen<'a, R: CubeRuntime> {
    pub(in crate::ops) experts: &'a PackedRows<R>,
    /// The router's logits, `F32`, one for each. The highest chooses, of equal ones the first; its sigmoid is the score.
    pub(in crate::ops) logits: &'a CubeTensor<R>,
}

impl<R: CubeRuntime> Chosen<'_, R> {
    /// How many experts there are.
    fn count(&self) -> usize {
        self.logits.shape.num_elements()
    }
}

/// What is done with a product's results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// Rows of up to three weights, one after another.
    Rows,
    /// `silu(gate) · up` of the shared expert, whose gate and up are weights of their own, then of the chosen one.
    Gated,
    /// The sum of a weight's rows and the chosen expert's, added to the residual.
    Sum,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Plan {
    kind: Kind,
    tile: Tile,
    /// The bits of the norm's epsilon.
    norm: Option<u32>,
    /// Columns of the first weight; the others of [`Kind::Sum`] are the expert's.
    columns: usize,
    /// Whether the first weight of [`Kind::Sum`] is that of the experts.
    routed: bool,
    tiles: usize,
    rows: [usize; 2],
}

impl Plan {
    /// Steps of a plane in a tile.
    fn steps(self) -> usize {
        self.tile.columns / STEP / self.tile.split
    }
}

/// Whether the products of this module can be computed with weights like this one and activations of type `dtype`.
pub(in crate::ops) fn fuses_tokens<R: CubeRuntime>(weight: &PackedRows<R>, dtype: DType) -> bool {
    tile(&weight.words.client, weight.packing, weight.columns, dtype).is_some()
}

/// How planes work on weights of so many columns.
fn tile<R: CubeRuntime>(client: &ComputeClient<R>, packing: Packing, columns: usize, dtype: DType) -> Option<Tile> {
    #[cfg(test)]
    if WITHOUT_CORES.get() {
        return Tile::of_units(client, packing, columns, dtype);
    }
    let on_cores = Tile::of(client, packing, columns, dtype, 1);
    on_cores.or_else(|| Tile::of_units(client, packing, columns, dtype))
}

/// Products of rows of up to three weights with the norm of `x`, `[1, in]`: `[1, out]` each, parts of one storage. `None` where that is not
/// this kernel's work.
pub(in crate::ops) fn normed_rows<R: CubeRuntime>(
    x: &CubeTensor<R>,
    norm: &Norm<'_, R>,
    weights: &[&PackedRows<R>],
) -> Option<Vec<CubeTensor<R>>> {
    let rows: Vec<usize> = weights.iter().map(|weight| weight.words.shape[0]).collect();
    if rows.is_empty() || rows.len() > 3 || rows.iter().any(|rows| !rows.is_multiple_of(TILE)) {
        return None;
    }
    let outputs: usize = rows.iter().sum();
    let last = weights.len() - 1;
    let call = Call {
        kind: Kind::Rows,
        x,
        norm: Some(norm),
        weights: [weights[0], weights[last.min(1)], weights[last]],
        rows: [rows[0], *rows.get(1).unwrap_or(&0)],
        columns: weights[0].columns,
        tiles: outputs / TILE,
        logits: None,
        residual: None,
        output: (outputs, norm.weight.dtype),
    };
    let together = call.launch("norm and rows")?;
    let mut first = 0;
    let parts = rows.iter().map(|rows| {
        let bytes = |values: usize| (values * together.dtype.size()) as u64;
        let handle = together.handle.clone();
        let handle = handle.offset_start(bytes(first)).offset_end(bytes(outputs - first - rows));
        first += rows;
        let shape = Shape::new([1, *rows]);
        CubeTensor::new_contiguous(together.client.clone(), together.device.clone(), shape, handle, together.dtype)
    });
    Some(parts.collect())
}

/// `[1, shared + chosen]`: `silu(gate) · up` of the shared expert, or of the one MLP of a layer without experts, and of the chosen one, whose
/// input is scaled with its score.
pub(in crate::ops) fn gated<R: CubeRuntime>(
    x: &CubeTensor<R>,
    norm: &Norm<'_, R>,
    gate: &PackedRows<R>,
    up: &PackedRows<R>,
    chosen: Option<&Chosen<'_, R>>,
) -> Option<CubeTensor<R>> {
    let shared = gate.words.shape[0];
    let routed = chosen.map_or(0, |chosen| chosen.experts.words.shape[0] / chosen.count() / 2);
    if up.words.shape[0] != shared || !shared.is_multiple_of(TILE / 2) || !routed.is_multiple_of(TILE / 2) {
        return None;
    }
    let call = Call {
        kind: Kind::Gated,
        x,
        norm: Some(norm),
        weights: [gate, up, chosen.map_or(gate, |chosen| chosen.experts)],
        rows: [shared, routed],
        columns: gate.columns,
        tiles: (shared + routed) / (TILE / 2),
        logits: chosen.map(|chosen| chosen.logits),
        residual: None,
        output: (shared + routed, norm.weight.dtype),
    };
    call.launch("norm, gate and up")
}

/// `[1, out]`, of the type of `residual`: `residual + W x`, where `x` also has the chosen expert's part behind the weight's.
pub(in crate::ops) fn down<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weight: &PackedRows<R>,
    chosen: Option<&Chosen<'_, R>>,
    residual: &CubeTensor<R>,
) -> Option<CubeTensor<R>> {
    let outputs = weight.words.shape[0];
    let expert = chosen.map_or(weight, |chosen| chosen.experts);
    if !outputs.is_multiple_of(TILE) {
        return None;
    }
    let call = Call {
        kind: Kind::Sum,
        x,
        norm: None,
        weights: [weight, expert, expert],
        rows: [outputs, 0],
        columns: weight.columns + chosen.map_or(0, |chosen| chosen.experts.columns),
        tiles: outputs / TILE,
        logits: chosen.map(|chosen| chosen.logits),
        residual: Some(residual),
        output: (outputs, residual.dtype),
    };
    call.launch("down and residual").or_else(|| down_by_turns(x, weight, chosen?, residual))
}

/// [`down`] where one cube has no room for the inputs of both: first the weight's part, then the chosen expert's.
fn down_by_turns<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weight: &PackedRows<R>,
    chosen: &Chosen<'_, R>,
    residual: &CubeTensor<R>,
) -> Option<CubeTensor<R>> {
    let (width, inner) = (weight.columns, chosen.experts.columns);
    if x.shape.num_elements() != width + inner {
        return None;
    }
    let part = |first: usize, count: usize| {
        let bytes = |values: usize| (values * x.dtype.size()) as u64;
        let handle = x.handle.clone().offset_start(bytes(first)).offset_end(bytes(width + inner - first - count));
        let shape = Shape::new([1, count]);
        CubeTensor::new_contiguous(x.client.clone(), x.device.clone(), shape, handle, x.dtype)
    };
    let shared = down(&part(0, width), weight, None, residual)?;
    let call = Call {
        kind: Kind::Sum,
        x: &part(width, inner),
        norm: None,
        weights: [chosen.experts; 3],
        rows: [weight.words.shape[0], 0],
        columns: inner,
        tiles: weight.words.shape[0] / TILE,
        logits: Some(chosen.logits),
        residual: Some(&shared),
        output: (weight.words.shape[0], residual.dtype),
    };
    call.launch("down of the expert")
}

/// As many multiprocessors are taken for there where the device does not say: too many cubes are better than too few.
const PROCESSORS: u32 = 128;

struct Call<'a, R: CubeRuntime> {
    kind: Kind,
    x: &'a CubeTensor<R>,
    norm: Option<&'a Norm<'a, R>>,
    weights: [&'a PackedRows<R>; 3],
    rows: [usize; 2],
    columns: usize,
    tiles: usize,
    logits: Option<&'a CubeTensor<R>>,
    residual: Option<&'a CubeTensor<R>>,
    output: (usize, DType),
}

impl<R: CubeRuntime> Call<'_, R> {
    fn launch(&self, name: &'static str) -> Option<CubeTensor<R>> {
        let (x, [first, second, third]) = (self.x, self.weights);
        let dtype = self.norm.map_or(x.dtype, |norm| norm.weight.dtype);
        let tile = tile(&x.client, first.packing, self.columns, dtype)?;
        let same = self.weights.iter().all(|weight| {
            weight.packing == first.packing && (self.kind == Kind::Sum || weight.columns == first.columns)
        });
        // A cube holds all of `x` in registers between the two passes of a norm.
        let fits = self.norm.is_none() || tile.lines().div_ceil(PLANE * tile.split) <= 8;
        let whole = self.weights.iter().all(|weight| weight.columns.is_multiple_of(STEP));
        if !same || !fits || !whole || x.shape.num_elements() != self.columns {
            return None;
        }
        let routed = self.kind == Kind::Sum && self.logits.is_some() && self.columns == first.columns;
        let norm = self.norm.map(|norm| (norm.epsilon as f32).to_bits());
        let (tiles, rows) = (self.tiles, self.rows);
        let plan = Plan { kind: self.kind, tile, norm, columns: first.columns, routed, tiles, rows };
        let shape = Shape::new([1, self.output.0]);
        let output = empty(x.client.clone(), x.device.clone(), shape, self.output.1);
        let processors = x.client.properties().hardware.num_streaming_multiprocessors.unwrap_or(PROCESSORS);
        let gamma = self.norm.map_or(x, |norm| norm.weight);
        // SAFETY: reads stay in the rows of the weights, of which the chosen expert is one; writes in the output of as many rows.
        let launched = unsafe {
            fused_kernel::launch_unchecked(
                &x.client,
                CubeCount::Static((self.tiles as u32).min(CUBES * processors), 1, 1),
                CubeDim::new_2d(PLANE as u32, tile.split as u32),
                array(x, LINE),
                array(gamma, LINE),
                words(&first.words, LINE),
                words(first.bound_scales(), 1),
                words(&second.words, LINE),
                words(second.bound_scales(), 1),
                words(&third.words, LINE),
                words(third.bound_scales(), 1),
                words(self.logits.unwrap_or(&first.words), 1),
                array(self.residual.unwrap_or(&output), 1),
                array(&output, 1),
                self.logits.map_or(0, |logits| logits.shape.num_elements()),
                plan,
                [x.dtype.into(), dtype.into(), self.output.1.into()],
            )
        };
        crate::ops::cube::ran(name, launched).then_some(output)
    }
}

#[cube(launch_unchecked)]
fn fused_kernel<S: Float, X: Float, Y: Float>(
    x: &Array<Line<S>>,
    gamma: &Array<Line<X>>,
    w0: &Array<Line<u32>>,
    s0: &Array<u32>,
    w1: &Array<Line<u32>>,
    s1: &Array<u32>,
    w2: &Array<Line<u32>>,
    s2: &Array<u32>,
    logits: &Array<f32>,
    residual: &Array<Y>,
    y: &mut Array<Y>,
    #[comptime] experts: usize,
    #[comptime] plan: Plan,
    #[define(S, X, Y)] _dtypes: [StorageType; 3],
) {
    let tile = comptime!(plan.tile);
    // Numbers of the model are constants: on wgpu, what a launch is given besides is a buffer that is made for it.
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
        let mut highest = logits[0];
        #[unroll]
        for i in 1..experts {
            let higher = logits[i] > highest;
            expert = select(higher, i, expert);
            highest = select(higher, logits[i], highest);
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
            // A loop: a step is a thousand instructions.
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
