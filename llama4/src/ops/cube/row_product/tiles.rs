//! On tensor cores, for weights of few bits: sixteen rows of the weight at once, in the fragments of `mma` with 16 × 16 by 16 × 8 values.
//!
//! Tensor cores take pairs of 16-bit floats. A nibble becomes one by putting its bits into a mantissa, two nibbles with one instruction:
//! `bf16` with the exponent of 128 gives `128 + n`, `f16` with that of 1024 `1024 + n`, both exact. The accumulators start with minus that
//! times the sum of the block's `x`. A byte is two nibbles, in two accumulators.
//!
//! A unit loads 16 bytes of a row, which lie in one block, and its neighbours those after them. The product may mix no blocks, since each
//! has its scale. So the other operand is zero but for the block's own column of eight: column `c` of the result is block `c` of eight.

use burn::tensor::{DType, f16};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::cmma;
use cubecl::features::MmaConfig;
use cubecl::prelude::*;
use cubecl::server::LaunchError;

use super::{Encoding, LINE, Part, Source};
use crate::ops::cube::args::{array, words};
use crate::ops::cube::processors;
use crate::quant::Packing;

/// Units of a plane, and rows of a weight that it multiplies.
pub(super) const PLANE: usize = 32;
pub(super) const TILE: usize = 16;

/// Values of a block.
pub(super) const BLOCK: usize = 32;

/// Values of a row in one step of a plane.
pub(super) const STEP: usize = 8 * BLOCK;

/// Cubes of a multiprocessor. More rows than these have are taken in rounds, so that `x` is read less often.
pub(super) const CUBES: usize = 4;

/// Most planes of a cube without tensor cores: enough of them that some compute while others wait for weights.
const UNIT_PLANES: usize = 10;

/// The most tensors that a kernel for a token's products has, and one with their lengths.
const BINDINGS: u32 = 11;

/// How a plane works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Tile {
    pub(super) packing: Packing,
    pub(super) columns: usize,
    /// Rows of `x`: what is beyond the rows that there are is not written.
    pub(super) inputs: usize,
    /// Planes that share rows, each with a part of the steps.
    pub(super) split: usize,
    /// Whether `x` is `bf16` rather than `f16`.
    pub(super) brain: bool,
    /// On tensor cores; otherwise one by one, in `f32`.
    pub(super) cores: bool,
    /// Whether `x` is `f32`: one by one alone.
    pub(super) single: bool,
}

impl Tile {
    /// `None` where the device or the shapes do not allow it, or it does not pay.
    pub(super) fn new<R: CubeRuntime>(x: &CubeTensor<R>, source: &Source<'_, R>, rows: usize) -> Option<Self> {
        match source.encoding {
            Encoding::Packed(Packing::Q4) => Self::of(&x.client, Packing::Q4, source.columns, x.dtype, rows),
            // One row of bytes is bound by memory in `f32` already.
            Encoding::Packed(Packing::Q8) if rows > 1 => {
                Self::of(&x.client, Packing::Q8, source.columns, x.dtype, rows)
            }
            _ => None,
        }
    }

    /// For `rows` rows of type `dtype`, where the device and the shapes allow it.
    pub(super) fn of<R: CubeRuntime>(
        client: &ComputeClient<R>,
        packing: Packing,
        columns: usize,
        dtype: DType,
        rows: usize,
    ) -> Option<Self> {
        let brain = dtype == DType::BF16;
        if !packing.has_scales() || !(brain || dtype == DType::F16) || !columns.is_multiple_of(STEP) {
            return None;
        }
        let (inputs, split) = (rows.next_power_of_two(), Self::split(packing, columns)?);
        let tile = Self { packing, columns, inputs, split, brain, cores: true, single: false };
        let properties = client.properties();
        let hardware = &properties.hardware;
        let (storage, f32) = (dtype.into(), DType::F32.into());
        let needed = MmaConfig { a_type: storage, b_type: storage, cd_type: f32, m: 16, n: 8, k: 16 };
        let fits = hardware.plane_size_min == PLANE as u32
            && hardware.plane_size_max == PLANE as u32
            && properties.features.mma.contains(&needed)
            && tile.shared_bytes() <= hardware.max_shared_memory_size;
        fits.then_some(tile)
    }

    /// For one row of type `dtype` where there are no such tensor cores, and `None` where the shapes do not allow it.
    pub(super) fn of_units<R: CubeRuntime>(
        client: &ComputeClient<R>,
        packing: Packing,
        columns: usize,
        dtype: DType,
    ) -> Option<Self> {
        let (brain, single) = (dtype == DType::BF16, dtype == DType::F32);
        if !packing.has_scales() || !(brain || single || dtype == DType::F16) || !columns.is_multiple_of(STEP) {
            return None;
        }
        let hardware = &client.properties().hardware;
        let (steps, most) = (columns / STEP, UNIT_PLANES.min(hardware.max_units_per_cube as usize / PLANE));
        let split = (1..=most).rev().find(|split| steps.is_multiple_of(*split))?;
        let tile = Self { packing, columns, inputs: 1, split, brain, cores: false, single };
        let fits = tile.shared_bytes() <= hardware.max_shared_memory_size && hardware.max_bindings >= BINDINGS;
        fits.then_some(tile)
    }

    /// How many planes share rows.
    fn split(packing: Packing, columns: usize) -> Option<usize> {
        let steps = columns / STEP;
        let wide = if steps >= 32 && packing == Packing::Q4 { 8 } else { 4 };
        [wide, 4, 5, 3, 2, 1].into_iter().find(|split| steps.is_multiple_of(*split))
    }

    /// Loads of 16 bytes in a step.
    pub(super) fn loads(self) -> usize {
        if self.packing == Packing::Q4 { 2 } else { 4 }
    }

    /// Lines of 8 values in a row of `x`.
    pub(super) fn lines(self) -> usize {
        self.columns / 8
    }

    /// Vectors that a line of 8 values takes in shared memory.
    pub(super) fn vectors(self) -> usize {
        if self.single { 2 } else { 1 }
    }

    /// Vectors of a row of `x` in shared memory. On tensor cores there are four of zeros behind them; without, one behind each block, so that
    /// units which read from neighbouring blocks at once meet no bank twice.
    pub(super) fn row_vectors(self) -> usize {
        self.lines() * self.vectors() + if self.cores { 4 } else { self.columns / BLOCK }
    }

    /// Sums of blocks of a row of `x` that are kept.
    pub(super) fn row_sums(self) -> usize {
        if self.cores { self.columns / BLOCK } else { 1 }
    }

    /// Words of scales that a unit loads for each of its rows. On tensor cores they are those of its results, whatever it loads itself.
    fn scale_words(self) -> usize {
        if self.cores { 1 } else { self.loads() }
    }

    /// Units that have a part of a row's sum: of those of a plane that share a row, the first one, or all four.
    pub(super) fn shares(self) -> usize {
        if self.cores { self.split } else { 4 * self.split }
    }

    /// What the exponent that values get adds to each, and the float of two zeros with it.
    fn base(self) -> (f32, u32) {
        if self.brain { (128.0, 0x4300_4300) } else { (1024.0, 0x6400_6400) }
    }

    fn shared_bytes(self) -> usize {
        self.inputs * (16 * self.row_vectors() + 4 * self.row_sums() + 8 * TILE * self.shares()) + 64
    }
}

pub(super) fn launch<R: CubeRuntime>(
    tile: Tile,
    part: &Part,
    x: &CubeTensor<R>,
    source: &Source<'_, R>,
    output: &CubeTensor<R>,
) -> Result<(), LaunchError> {
    let tiles = part.outputs.div_ceil(TILE);
    let cubes = (CUBES * processors(&x.client)).min(tiles);
    // SAFETY: reads stay in the rows of `x` and of the group's weight, which exist; writes in the output of the same rows.
    unsafe {
        tile_product_kernel::launch_unchecked(
            &x.client,
            CubeCount::Static(cubes as u32, 1, 1),
            CubeDim::new_2d(PLANE as u32, tile.split as u32),
            words(x, LINE),
            words(source.values, LINE),
            source.scales(),
            array(output, 1),
            ScalarArg::new(part.outputs),
            ScalarArg::new(tiles),
            ScalarArg::new(part.first_row),
            ScalarArg::new(part.rows),
            ScalarArg::new(part.first_weight),
            tile,
            x.dtype.into(),
        )
    }
}

#[cube(launch_unchecked)]
fn tile_product_kernel<X: Float>(
    x: &Array<Line<u32>>,
    weights: &Array<Line<u32>>,
    scales: &Array<u32>,
    y: &mut Array<X>,
    outputs: usize,
    tiles: usize,
    first_row: usize,
    rows: usize,
    first_weight: usize,
    #[comptime] tile: Tile,
    #[define(X)] _dtype: StorageType,
) {
    let (lane, part) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let (row, lines) = (lane / 4, comptime!(tile.lines()));
    let mut xs = SharedMemory::<u32>::new_lined(comptime!(tile.lines() * tile.inputs + 4), LINE);
    let mut x_sums = SharedMemory::<f32>::new(comptime!(tile.columns / BLOCK * tile.inputs));
    // By turns, so that one barrier a round is enough.
    let mut joined = SharedMemory::<f32>::new(comptime!(2 * TILE * tile.split * tile.inputs));
    let mut now = Step::new(tile);
    let mut next = Step::new(tile);

    // Weights are on their way while `x` is prepared.
    let mut number = CUBE_POS;
    let mut source = Rows::new(number, tiles, outputs, first_weight, row);
    now.load(weights, scales, &source, part, lane % 4, tile);
    stage::<X>(x, &mut xs, &mut x_sums, first_row * lines, rows, tile);
    sync_cube();

    let steps = comptime!(tile.columns / STEP / tile.split);
    let rounds = tiles.div_ceil(CUBE_COUNT);
    for round in 0..rounds {
        let turn = round % 2 * comptime!(TILE * tile.split * tile.inputs);
        let after = Rows::new(number + CUBE_COUNT, tiles, outputs, first_weight, row);
        let mut totals = Array::<f32>::new(comptime!(2 * tile.inputs));
        #[unroll]
        for i in 0..comptime!(2 * tile.inputs) {
            totals[i] = 0.0;
        }
        for s in 0..steps {
            let step = part + s * tile.split;
            if s + 1 < steps {
                next.load(weights, scales, &source, step + tile.split, lane % 4, tile);
            } else if round + 1 < rounds {
                next.load(weights, scales, &after, part, lane % 4, tile);
            }
            now.multiply::<X>(&mut totals, &xs, &x_sums, step, lane, tile);
            now.take(&next, tile);
        }
        #[unroll]
        for i in 0..comptime!(2 * tile.inputs) {
            let pair = totals[i] + plane_shuffle_xor(totals[i], 1u32);
            let four = pair + plane_shuffle_xor(pair, 2u32);
            if lane % 4 == 0 {
                joined[turn + (comptime!(i / 2 * TILE + i % 2 * 8) + row) * tile.split + part] = four;
            }
        }
        sync_cube();
        let mut at = UNIT_POS as usize;
        while at < comptime!(TILE * tile.inputs) {
            let mut sum = 0.0_f32;
            #[unroll]
            for p in 0..tile.split {
                sum += joined[turn + at * tile.split + p];
            }
            let (input, output) = (at / TILE, number * TILE + at % TILE);
            if input < rows && output < outputs {
                y[(first_row + input) * outputs + output] = X::cast_from(sum);
            }
            at += comptime!(PLANE * tile.split);
        }
        number += CUBE_COUNT;
        source.upper = after.upper;
        source.lower = after.lower;
    }
}

/// The two rows of a tile that a unit loads.
#[derive(CubeType)]
struct Rows {
    upper: usize,
    lower: usize,
}

#[cube]
impl Rows {
    /// Beyond the last row it is the last: all planes of a cube have to meet at the barriers.
    fn new(number: usize, tiles: usize, outputs: usize, first_weight: usize, row: usize) -> Rows {
        let first = select(number < tiles, number, tiles - 1) * TILE + row;
        let upper = first_weight + select(first < outputs, first, outputs - 1);
        let lower = first_weight + select(first + 8 < outputs, first + 8, outputs - 1);
        Rows { upper, lower }
    }
}

/// What a unit loads of the weight for one step.
#[derive(CubeType)]
pub(super) struct Step {
    /// Of the upper row, then of the lower.
    pub(super) values: Array<Line<u32>>,
    /// Of both, two to a word.
    pub(super) scales: Array<u32>,
}

#[cube]
impl Step {
    pub(super) fn new(#[comptime] tile: Tile) -> Step {
        Step {
            values: Array::<Line<u32>>::lined(comptime!(2 * tile.loads()), LINE),
            scales: Array::<u32>::new(comptime!(2 * tile.scale_words())),
        }
    }

    fn load(
        &mut self,
        weights: &Array<Line<u32>>,
        scales: &Array<u32>,
        rows: &Rows,
        step: usize,
        quarter: usize,
        #[comptime] tile: Tile,
    ) {
        self.load_half(weights, scales, 0usize, rows.upper, step, quarter, tile.columns, tile);
        self.load_half(weights, scales, 1usize, rows.lower, step, quarter, tile.columns, tile);
    }

    /// The upper or the lower row of a tile, of a weight with so many columns.
    #[allow(clippy::too_many_arguments, reason = "of a kernel")]
    pub(super) fn load_half(
        &mut self,
        weights: &Array<Line<u32>>,
        scales: &Array<u32>,
        #[comptime] half: usize,
        row: usize,
        step: usize,
        quarter: usize,
        #[comptime] columns: usize,
        #[comptime] tile: Tile,
    ) {
        let vectors = comptime!(columns / (BLOCK * 4 / tile.packing.bits()));
        let first = row * vectors + step * comptime!(4 * tile.loads()) + quarter;
        #[unroll]
        for load in 0..comptime!(tile.loads()) {
            self.values[comptime!(half * tile.loads() + load)] = weights[first + comptime!(4 * load)];
        }
        let words = row * comptime!(columns / BLOCK / 2) + step * 4;
        if comptime!(tile.cores) {
            self.scales[half] = scales[words + quarter];
        } else {
            #[unroll]
            for load in 0..comptime!(tile.loads()) {
                let word = match comptime!(tile.packing) {
                    Packing::Q4 => comptime!(2 * load) + quarter / 2,
                    _ => load.runtime(),
                };
                self.scales[comptime!(half * tile.loads() + load)] = scales[words + word];
            }
        }
    }

    pub(super) fn take(&mut self, other: &Step, #[comptime] tile: Tile) {
        #[unroll]
        for i in 0..comptime!(2 * tile.loads()) {
            self.values[i] = other.values[i];
        }
        #[unroll]
        for i in 0..comptime!(2 * tile.scale_words()) {
            self.scales[i] = other.scales[i];
        }
    }

    /// Add the products with every row of `x` to `totals`: upper and lower row by turns.
    pub(super) fn multiply<X: Float>(
        &self,
        totals: &mut Array<f32>,
        xs: &SharedMemory<Line<u32>>,
        x_sums: &SharedMemory<f32>,
        step: usize,
        lane: usize,
        #[comptime] tile: Tile,
    ) {
        let (column, quarter) = (lane / 4, lane % 4);
        let zeros = comptime!(tile.lines() * tile.inputs).runtime();
        let (base, bits) = comptime!(tile.base());
        // Constants that the compiler does not know: of known ones, one instruction takes only one.
        let unknown = UNIT_POS_Z;
        let mask = unknown + 0x000f_000f;
        let low_rest = unknown + comptime!(bits);
        let high_rest = unknown + comptime!(if tile.packing == Packing::Q4 { bits } else { bits ^ 0x0008_0008 });
        #[unroll]
        for input in 0..tile.inputs {
            let sums = comptime!(input * (tile.columns / BLOCK)) + step * 8 + quarter * 2;
            let mut x_sum = Line::<f32>::empty(2usize);
            x_sum[0] = x_sums[sums];
            x_sum[1] = x_sums[sums + 1];
            // Of two's complement, the offset of a byte is that of its upper nibble.
            let offset = comptime!(if tile.packing == Packing::Q4 { -base - 8.0 } else { -base });
            let mut first = Accumulator::new(x_sum, offset);
            // Two, so that a product need not wait for the one before it; of four bits, the offset is in the first.
            let mut second =
                Accumulator::new(x_sum, comptime!(if tile.packing == Packing::Q4 { 0.0 } else { -base - 8.0 }));
            #[unroll]
            for load in 0..comptime!(tile.loads()) {
                // The block of this unit's vector, of eight, and where its `x` is.
                let (block, line) = if comptime!(tile.packing == Packing::Q4) {
                    let block = comptime!(4 * load) + quarter;
                    (block, (step * 8 + block) * 4)
                } else {
                    (comptime!(2 * load) + quarter / 2, step * 32 + comptime!(8 * load) + quarter * 2)
                };
                let at = select(block == column, comptime!(input * tile.lines()) + line, zeros);
                let upper = self.values[load];
                let lower = self.values[comptime!(tile.loads() + load)];
                #[unroll]
                for word in 0..LINE {
                    let half = comptime!(word % 2 * 2);
                    let low = xs[at + comptime!(word / 2)];
                    first.add::<X>(upper[word], lower[word], 0u32, mask, low_rest, low, half);
                    let mut high = low;
                    if comptime!(tile.packing == Packing::Q4) {
                        high = xs[at + comptime!(2 + word / 2)];
                    }
                    second.add::<X>(upper[word], lower[word], 4u32, mask, high_rest, high, half);
                }
            }
            #[unroll]
            for half in 0..2usize {
                let scale = Line::<f16>::reinterpret(self.scales[half]);
                let weight = comptime!(if tile.packing == Packing::Q4 { 1.0_f32 } else { 16.0_f32 });
                let sum = first.values[half] + second.values[half] * Line::empty(2usize).fill(weight);
                let slot = comptime!(2 * input + half);
                totals[slot] =
                    fma(f32::cast_from(scale[0]), sum[0], fma(f32::cast_from(scale[1]), sum[1], totals[slot]));
            }
        }
    }
}

/// Results of a plane's product: of a unit two columns of two rows.
#[derive(CubeType)]
struct Accumulator {
    values: Array<Line<f32>>,
}

#[cube]
impl Accumulator {
    fn new(x_sum: Line<f32>, #[comptime] factor: f32) -> Accumulator {
        let mut values = Array::<Line<f32>>::lined(2usize, 2usize);
        values[0] = x_sum * Line::empty(2usize).fill(factor);
        values[1] = values[0];
        Accumulator { values }
    }

    /// Four values each of two rows, every other nibble of a word from bit `shift` on, times four of `x`: half of a line.
    #[allow(clippy::too_many_arguments, reason = "of a kernel")]
    fn add<X: Float>(
        &mut self,
        upper: u32,
        lower: u32,
        #[comptime] shift: u32,
        mask: u32,
        rest: u32,
        x: Line<u32>,
        #[comptime] half: usize,
    ) {
        let definition = cmma::MmaDefinition::<X, X, f32>::new(16usize, 8usize, 16usize);
        let mut a = Array::<Line<X>>::lined(4usize, 2usize);
        a[0] = nibbles::<X>(upper, shift, mask, rest);
        a[1] = nibbles::<X>(lower, shift, mask, rest);
        a[2] = nibbles::<X>(upper, comptime!(shift + 8), mask, rest);
        a[3] = nibbles::<X>(lower, comptime!(shift + 8), mask, rest);
        let mut b = Array::<Line<X>>::lined(2usize, 2usize);
        b[0] = Line::<X>::reinterpret(x[half]);
        b[1] = Line::<X>::reinterpret(x[comptime!(half + 1)]);
        let sums = definition.execute(&a, &b, &self.values);
        self.values[0] = sums[0];
        self.values[1] = sums[1];
    }
}

/// The nibbles at `shift` and 16 bits above, which `mask` leaves, as floats.
#[cube]
fn nibbles<X: Float>(word: u32, #[comptime] shift: u32, mask: u32, rest: u32) -> Line<X> {
    let mut moved = word;
    if comptime!(shift > 0) {
        moved = word >> shift;
    }
    Line::<X>::reinterpret((moved & mask) ^ rest)
}

/// Bring `x` to shared memory, values 1 and 2 of every four exchanged as the nibbles of a word come, behind it a line of zeros for each of
/// a block's four, and the sums of its blocks.
#[cube]
fn stage<X: Float>(
    x: &Array<Line<u32>>,
    xs: &mut SharedMemory<Line<u32>>,
    x_sums: &mut SharedMemory<f32>,
    first: usize,
    rows: usize,
    #[comptime] tile: Tile,
) {
    let unit = UNIT_POS as usize;
    let total = comptime!(tile.lines() * tile.inputs);
    let units = comptime!(PLANE * tile.split);
    // Loads that are under way together.
    let ahead = comptime!(total.div_ceil(units).min(8));
    let mut loaded = Array::<Line<u32>>::lined(ahead, LINE);
    let mut start = 0usize.runtime();
    while start < total {
        #[unroll]
        for a in 0..ahead {
            let line = start + comptime!(a * units) + unit;
            let (row, within) = (line / comptime!(tile.lines()), line % comptime!(tile.lines()));
            loaded[a] = x[first + select(row < rows, row, rows - 1) * comptime!(tile.lines()) + within];
        }
        #[unroll]
        for a in 0..ahead {
            let line = start + comptime!(a * units) + unit;
            let values = loaded[a];
            let mut sum = 0.0_f32;
            #[unroll]
            for word in 0..LINE {
                let pair = Line::<X>::reinterpret(values[word]);
                sum += f32::cast_from(pair[0]) + f32::cast_from(pair[1]);
            }
            // Four neighbours have a block.
            sum += plane_shuffle_xor(sum, 1u32);
            sum += plane_shuffle_xor(sum, 2u32);
            if line < total {
                let mut turned = Line::<u32>::empty(LINE);
                #[unroll]
                for half in 0..2usize {
                    let (a, b) = (values[comptime!(2 * half)], values[comptime!(2 * half + 1)]);
                    turned[comptime!(2 * half)] = (a & 0xffff) | (b << 16);
                    turned[comptime!(2 * half + 1)] = (a >> 16) | (b & 0xffff_0000u32);
                }
                xs[line] = turned;
                if line.is_multiple_of(4) {
                    x_sums[line / 4] = sum;
                }
            }
        }
        start += comptime!(ahead * units);
    }
    if unit < 4 {
        xs[total + unit] = Line::<u32>::empty(LINE).fill(0);
    }
}
