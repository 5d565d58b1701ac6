//! In `f32` arithmetic, for every device.
//!
//! Integers become floats without a conversion, which devices do at a fraction of the rate of other instructions: the bits of a value are
//! put into the mantissa of a float whose exponent is that of 1, which gives `1 + n / 2ᵏ`. What this adds is taken off once a block, by means
//! of the sum of the block's `x`.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::features::Plane;
use cubecl::prelude::*;
use cubecl::server::LaunchError;

use super::{Encoding, LINE, Part, Source};
use crate::ops::cube::args::array;
use crate::ops::cube::cube_count;
use crate::ops::cube::decode::{half_of, scale_of};
use crate::quant::Packing;

/// Units along a row, which share an output.
const UNITS: usize = 32;

/// How work is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Plan {
    encoding: Encoding,
    /// Rows of `x`.
    inputs: usize,
    /// Rows of the weight that a unit works on together: they share its values of `x`.
    rows: usize,
    /// Times [`UNITS`] units share a row.
    split: usize,
    /// So many rows times [`Plan::rows`] in a cube.
    groups: usize,
    /// Vectors of a row that are loaded before the first is used.
    ahead: usize,
    /// Sums through plane operations; through shared memory otherwise.
    planes: bool,
}

impl Plan {
    fn new<R: CubeRuntime>(client: &ComputeClient<R>, encoding: Encoding, part: &Part) -> Self {
        let properties = client.properties();
        let (least, most) = (properties.hardware.plane_size_min, properties.hardware.plane_size_max);
        let planes = least == most && most as usize == UNITS && properties.features.plane.contains(Plane::Ops);
        let (rows, split, groups, ahead) = match (part.rows, encoding) {
            (1, _) if part.outputs < 1024 => (1, 8, 1, 1),
            (1, Encoding::Packed(Packing::Q4)) => (4, 1, 4, 2),
            (1, _) => (2, 2, 4, 1),
            (2..=4, _) => (4, 1, 8, 1),
            _ => (2, 1, 8, 1),
        };
        Self { encoding, inputs: part.rows, rows, split, groups, ahead, planes }
    }
}

pub(super) fn launch<R: CubeRuntime>(
    part: &Part,
    x: &CubeTensor<R>,
    source: &Source<'_, R>,
    output: &CubeTensor<R>,
) -> Result<(), LaunchError> {
    let plan = Plan::new(&x.client, source.encoding, part);
    // SAFETY: reads stay in the rows of `x` and of the group's weight, which exist; writes in the output of the same rows.
    unsafe {
        scalar_product_kernel::launch_unchecked(
            &x.client,
            cube_count(part.outputs.div_ceil(plan.rows * plan.groups)),
            CubeDim::new_3d(UNITS as u32, plan.split as u32, plan.groups as u32),
            array(x, LINE),
            source.values(),
            source.scales(),
            array(output, 1),
            ScalarArg::new(part.outputs),
            ScalarArg::new(source.columns),
            ScalarArg::new(source.scale_words()),
            ScalarArg::new(part.first_row),
            ScalarArg::new(part.first_weight),
            plan,
            [x.dtype.into(), source.dtype().into()],
        )
    }
}

#[cube(launch_unchecked)]
fn scalar_product_kernel<X: Float, W: Numeric>(
    x: &Array<Line<X>>,
    weights: &Array<Line<W>>,
    scales: &Array<u32>,
    y: &mut Array<X>,
    outputs: usize,
    columns: usize,
    scale_words: usize,
    first_row: usize,
    first_weight: usize,
    #[comptime] plan: Plan,
    #[define(X, W)] _dtypes: [StorageType; 2],
) {
    let (lane, part, group) = (UNIT_POS_X as usize, UNIT_POS_Y as usize, UNIT_POS_Z as usize);
    let first = (CUBE_POS * comptime!(plan.groups) + group) * comptime!(plan.rows);
    let values = comptime!(plan.encoding.values());
    let vectors = columns / values;
    let x_row = columns / LINE;
    let x_first = first_row * x_row;

    let mut sums = zeros(comptime!(plan.rows * plan.inputs));
    let mut ahead = Array::<Line<W>>::lined(comptime!(plan.rows * plan.ahead), LINE);
    let mut scale = Array::<f32>::new(comptime!(plan.rows * plan.ahead));
    let mut at = part * UNITS + lane;
    while at < vectors {
        #[unroll]
        for a in 0..plan.ahead {
            let place = at + comptime!(a * UNITS * plan.split);
            let vector = select(place < vectors, place, 0);
            #[unroll]
            for r in 0..plan.rows {
                // Units beyond the last output work on it again and write nothing: all of a cube have to meet at the barriers.
                let row = first_weight + select(first + r < outputs, first + r, outputs - 1);
                let slot = comptime!(a * plan.rows + r);
                ahead[slot] = weights[row * vectors + vector];
                let mut factor = 1.0_f32;
                if comptime!(plan.encoding.has_scales()) {
                    factor = scale_of(scales, row * scale_words, vector * values / 32);
                }
                scale[slot] = select(place < vectors, factor, 0.0);
            }
        }
        #[unroll]
        for a in 0..plan.ahead {
            let place = at + comptime!(a * UNITS * plan.split);
            let vector = select(place < vectors, place, 0);
            add_block::<X, W>(
                &mut sums,
                x,
                &ahead,
                &scale,
                x_first + vector * comptime!(plan.encoding.values() / LINE),
                x_row,
                a,
                plan,
            );
        }
        at += comptime!(UNITS * plan.split * plan.ahead);
    }
    join(&mut sums, lane, part, group, plan);
    if lane == 0 && part == 0 {
        #[unroll]
        for r in 0..plan.rows {
            if first + r < outputs {
                #[unroll]
                for i in 0..plan.inputs {
                    y[(first_row + i) * outputs + first + r] = X::cast_from(sums[comptime!(r * plan.inputs + i)]);
                }
            }
        }
    }
}

#[cube]
fn zeros(#[comptime] count: usize) -> Array<f32> {
    let mut sums = Array::<f32>::new(count);
    #[unroll]
    for i in 0..count {
        sums[i] = 0.0;
    }
    sums
}

/// Add the products of the vectors number `a` of every row.
#[cube]
fn add_block<X: Float, W: Numeric>(
    sums: &mut Array<f32>,
    x: &Array<Line<X>>,
    ahead: &Array<Line<W>>,
    scale: &Array<f32>,
    x_at: usize,
    x_row: usize,
    #[comptime] a: usize,
    #[comptime] plan: Plan,
) {
    let parts = comptime!(plan.encoding.values() / LINE);
    // Parts of a vector whose values have the same place in a float.
    let classes = comptime!(if plan.encoding == Encoding::Packed(Packing::Q4) { 2 } else { 1 });
    let mut products = zeros(comptime!(classes * plan.rows * plan.inputs));
    let mut x_sums = zeros(comptime!(classes * plan.inputs));
    #[unroll]
    for p in 0..comptime!(parts / classes) {
        #[unroll]
        for class in 0..classes {
            let number = comptime!(class * (parts / classes) + p);
            let mut xs = Array::<Line<f32>>::lined(plan.inputs, LINE);
            #[unroll]
            for i in 0..plan.inputs {
                let values = Line::<f32>::cast_from(x[x_at + i * x_row + number]);
                xs[i] = values;
                x_sums[comptime!(class * plan.inputs + i)] += (values[0] + values[1]) + (values[2] + values[3]);
            }
            #[unroll]
            for r in 0..plan.rows {
                let values = raw::<W>(ahead[comptime!(a * plan.rows + r)], number, plan.encoding);
                #[unroll]
                for i in 0..plan.inputs {
                    let slot = comptime!((class * plan.rows + r) * plan.inputs + i);
                    #[unroll]
                    for v in 0..LINE {
                        products[slot] = fma(values[v], xs[i][v], products[slot]);
                    }
                }
            }
        }
    }
    #[unroll]
    for r in 0..plan.rows {
        #[unroll]
        for i in 0..plan.inputs {
            let mut sum = 0.0_f32;
            #[unroll]
            for class in 0..classes {
                let (unit, offset) = comptime!(grid(plan.encoding, class));
                let mut product = products[comptime!((class * plan.rows + r) * plan.inputs + i)];
                if comptime!(plan.encoding.has_scales()) {
                    product = (product - offset * x_sums[comptime!(class * plan.inputs + i)]) * unit;
                }
                sum += product;
            }
            let slot = comptime!(r * plan.inputs + i);
            sums[slot] = fma(sum, scale[comptime!(a * plan.rows + r)], sums[slot]);
        }
    }
}

/// `(u, o)`: a value is `u (v - o)` where [`raw`] gives `v`.
fn grid(encoding: Encoding, class: usize) -> (f32, f32) {
    match (encoding, class) {
        (Encoding::Packed(Packing::Q4), 0) => (16.0, 1.5),
        (Encoding::Packed(Packing::Q4), _) => (256.0, 1.0 + 8.0 / 256.0),
        (Encoding::Packed(Packing::Q8), _) => (256.0, 1.5),
        _ => (1.0, 0.0),
    }
}

/// Four values of a vector of weights: those that meet part `part` of its share of `x`, integers as [`grid`] says.
#[cube]
fn raw<W: Numeric>(vector: Line<W>, #[comptime] part: usize, #[comptime] encoding: Encoding) -> Line<f32> {
    let mut values = Line::<f32>::empty(LINE);
    if comptime!(encoding == Encoding::Float) {
        values = Line::cast_from(vector);
    } else if comptime!(encoding == Encoding::Packed(Packing::Q4)) {
        // The low nibbles of a block's four words are its first half, the high ones its second. Bits 19 to 22 of a float are the upper
        // ones of its mantissa. High nibbles go to bits 15 to 18, so that both of a byte are moved at once, or two neighbours.
        let word = u32::cast_from(vector[comptime!(part % 4)]);
        #[unroll]
        for byte in 0..4_usize {
            if comptime!(part < 4) {
                values[byte] = mantissa(word, comptime!(19 - 8 * byte as i32), 0x0078_0000u32, 0x3f80_0000u32);
            } else {
                values[byte] = mantissa(word, comptime!(11 - 8 * byte as i32), 0x0007_8000u32, 0x3f80_0000u32);
            }
        }
    } else if comptime!(encoding == Encoding::Packed(Packing::Q8)) {
        let word = u32::cast_from(vector[part]);
        #[unroll]
        for byte in 0..4_usize {
            // Flipping its upper bit turns two's complement into an offset of 128.
            values[byte] = mantissa(word, comptime!(15 - 8 * byte as i32), 0x007f_8000u32, 0x3fc0_0000u32);
        }
    } else {
        #[unroll]
        for half in 0..4_usize {
            let word = u32::cast_from(vector[comptime!(2 * part + half / 2)]);
            let index = comptime!(half as u32 % 2);
            values[half] = half_of(word, index, comptime!(encoding == Encoding::Packed(Packing::Bf16)));
        }
    }
    values
}

/// The float of `word`'s bits in `mask` after a shift to the left, all others as in `rest`.
#[cube]
fn mantissa(word: u32, #[comptime] left: i32, #[comptime] mask: u32, #[comptime] rest: u32) -> f32 {
    let mut moved = word;
    if comptime!(left > 0) {
        moved = word << comptime!(left as u32);
    } else if comptime!(left < 0) {
        moved = word >> comptime!(left.unsigned_abs());
    }
    f32::reinterpret((moved & mask) ^ rest)
}

/// Sums over all units of a row; the first of them has the result.
#[cube]
fn join(sums: &mut Array<f32>, lane: usize, part: usize, group: usize, #[comptime] plan: Plan) {
    let count = comptime!(plan.rows * plan.inputs);
    if comptime!(plan.planes) {
        #[unroll]
        for i in 0..count {
            sums[i] = plane_sum(sums[i]);
        }
    }
    // Units that still have a part of a sum.
    let width = comptime!(if plan.planes { plan.split } else { plan.split * UNITS });
    if comptime!(width > 1) {
        let mut shared =
            SharedMemory::<f32>::new(comptime!(plan.groups * plan.split * count * if plan.planes { 1 } else { UNITS }));
        let within = if comptime!(plan.planes) { part } else { part * UNITS + lane };
        let own = (group * width + within) * count;
        if comptime!(!plan.planes) || lane == 0 {
            #[unroll]
            for i in 0..count {
                shared[own + i] = sums[i];
            }
        }
        let mut stride = comptime!(width / 2).runtime();
        while stride > 0 {
            sync_cube();
            if within < stride && (comptime!(!plan.planes) || lane == 0) {
                #[unroll]
                for i in 0..count {
                    shared[own + i] += shared[own + stride * count + i];
                }
            }
            stride /= 2;
        }
        #[unroll]
        for i in 0..count {
            sums[i] = shared[own + i];
        }
    }
}
