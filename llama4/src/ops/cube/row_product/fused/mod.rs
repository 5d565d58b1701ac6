//! Products of a decoded token together with what surrounds them: the norm before, SwiGLU or the residual after, and the expert that the
//! router chose, whose number stays on the device. For packed weights; on tensor cores where the device has those that take them.

mod kernel;

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::tiles::{CUBES, PLANE, STEP, TILE, Tile};
use super::{LINE, PackedRows};
use crate::ops::cube::args::{empty, may_begin_at};
use crate::ops::cube::launch::Launch;
use crate::ops::cube::processors;
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
    let size = norm.weight.dtype.size();
    if !rows.iter().all(|rows| may_begin_at(&x.client, rows * size)) {
        return None;
    }
    let outputs: usize = rows.iter().sum();
    let last = weights.len() - 1;
    let call = Call {
        around: Around::Rows(norm),
        x,
        weights: [weights[0], weights[last.min(1)], weights[last]],
        rows: [rows[0], *rows.get(1).unwrap_or(&0)],
        columns: weights[0].columns,
        tiles: outputs / TILE,
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
        around: Around::Gated(norm, chosen.map(|chosen| chosen.logits)),
        x,
        weights: [gate, up, chosen.map_or(gate, |chosen| chosen.experts)],
        rows: [shared, routed],
        columns: gate.columns,
        tiles: (shared + routed) / (TILE / 2),
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
        around: Around::Sum(residual, chosen.map(|chosen| chosen.logits)),
        x,
        weights: [weight, expert, expert],
        rows: [outputs, 0],
        columns: weight.columns + chosen.map_or(0, |chosen| chosen.experts.columns),
        tiles: outputs / TILE,
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
    if x.shape.num_elements() != width + inner || !may_begin_at(&x.client, width * x.dtype.size()) {
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
        around: Around::Sum(&shared, Some(chosen.logits)),
        x: &part(width, inner),
        weights: [chosen.experts; 3],
        rows: [weight.words.shape[0], 0],
        columns: inner,
        tiles: weight.words.shape[0] / TILE,
        output: (weight.words.shape[0], residual.dtype),
    };
    call.launch("down of the expert")
}

/// What surrounds a product.
enum Around<'a, R: CubeRuntime> {
    Rows(&'a Norm<'a, R>),
    /// With the router's logits, if an expert is chosen.
    Gated(&'a Norm<'a, R>, Option<&'a CubeTensor<R>>),
    /// The residual, and the logits likewise.
    Sum(&'a CubeTensor<R>, Option<&'a CubeTensor<R>>),
}

struct Call<'a, R: CubeRuntime> {
    around: Around<'a, R>,
    x: &'a CubeTensor<R>,
    weights: [&'a PackedRows<R>; 3],
    rows: [usize; 2],
    columns: usize,
    tiles: usize,
    output: (usize, DType),
}

impl<R: CubeRuntime> Call<'_, R> {
    fn launch(&self, name: &'static str) -> Option<CubeTensor<R>> {
        let (x, [first, second, third]) = (self.x, self.weights);
        let (kind, norm, logits) = match self.around {
            Around::Rows(norm) => (Kind::Rows, Some(norm), None),
            Around::Gated(norm, logits) => (Kind::Gated, Some(norm), logits),
            Around::Sum(_, logits) => (Kind::Sum, None, logits),
        };
        let dtype = norm.map_or(x.dtype, |norm| norm.weight.dtype);
        let tile = tile(&x.client, first.packing, self.columns, dtype)?;
        let same = self
            .weights
            .iter()
            .all(|weight| weight.packing == first.packing && (kind == Kind::Sum || weight.columns == first.columns));
        // A cube holds all of `x` in registers between the two passes of a norm.
        let fits = norm.is_none() || tile.lines().div_ceil(PLANE * tile.split) <= 8;
        let whole = self.weights.iter().all(|weight| weight.columns.is_multiple_of(STEP));
        if !same || !fits || !whole || x.shape.num_elements() != self.columns {
            return None;
        }
        let routed = kind == Kind::Sum && logits.is_some() && self.columns == first.columns;
        let epsilon = norm.map(|norm| (norm.epsilon as f32).to_bits());
        let (tiles, rows) = (self.tiles, self.rows);
        let plan = Plan { kind, tile, norm: epsilon, columns: first.columns, routed, tiles, rows };
        let shape = Shape::new([1, self.output.0]);
        let output = empty(x.client.clone(), x.device.clone(), shape, self.output.1);
        let cubes = (CUBES * processors(&x.client)).min(self.tiles);
        let cubes = CubeCount::Static(cubes as u32, 1, 1);
        let experts = logits.map_or(0, |logits| logits.shape.num_elements());
        let (x_type, y_type) = (x.dtype.into(), self.output.1.into());
        let mut launch = Launch::new(x);
        let (settings, client) = launch.kernel(CubeDim::new_2d(PLANE as u32, tile.split as u32));
        // SAFETY, of each: reads stay in the rows of the weights, of which the chosen expert is one; writes in the output of as many rows.
        let launched = match self.around {
            Around::Rows(norm) => {
                let kernel = kernel::rows_kernel::RowsKernel::new(
                    settings,
                    client,
                    launch.array(x, LINE),
                    launch.array(norm.weight, LINE),
                    launch.words(&first.words, LINE),
                    launch.words(first.bound_scales(), 1),
                    launch.words(&second.words, LINE),
                    launch.words(second.bound_scales(), 1),
                    launch.words(&third.words, LINE),
                    launch.words(third.bound_scales(), 1),
                    launch.array(&output, 1),
                    plan,
                    [x_type, dtype.into(), y_type],
                );
                // SAFETY: see above.
                unsafe { launch.run(cubes, kernel) }
            }
            Around::Gated(norm, logits) => {
                let kernel = kernel::gated_kernel::GatedKernel::new(
                    settings,
                    client,
                    launch.array(x, LINE),
                    launch.array(norm.weight, LINE),
                    launch.words(&first.words, LINE),
                    launch.words(first.bound_scales(), 1),
                    launch.words(&second.words, LINE),
                    launch.words(second.bound_scales(), 1),
                    launch.words(&third.words, LINE),
                    launch.words(third.bound_scales(), 1),
                    launch.words(logits.unwrap_or(first.bound_scales()), 1),
                    launch.array(&output, 1),
                    experts,
                    plan,
                    [x_type, dtype.into(), y_type],
                );
                // SAFETY: see above.
                unsafe { launch.run(cubes, kernel) }
            }
            Around::Sum(residual, None) => {
                let kernel = kernel::sum_kernel::SumKernel::new(
                    settings,
                    client,
                    launch.array(x, LINE),
                    launch.words(&first.words, LINE),
                    launch.words(first.bound_scales(), 1),
                    launch.array(residual, 1),
                    launch.array(&output, 1),
                    plan,
                    [x_type, y_type],
                );
                // SAFETY: see above.
                unsafe { launch.run(cubes, kernel) }
            }
            Around::Sum(residual, Some(logits)) => {
                let kernel = kernel::chosen_sum_kernel::ChosenSumKernel::new(
                    settings,
                    client,
                    launch.array(x, LINE),
                    launch.words(&first.words, LINE),
                    launch.words(first.bound_scales(), 1),
                    launch.words(&second.words, LINE),
                    launch.words(second.bound_scales(), 1),
                    launch.words(logits, 1),
                    launch.array(residual, 1),
                    launch.array(&output, 1),
                    experts,
                    plan,
                    [x_type, y_type],
                );
                // SAFETY: see above.
                unsafe { launch.run(cubes, kernel) }
            }
        };
        crate::ops::cube::ran(name, launched).then_some(output)
    }
}
