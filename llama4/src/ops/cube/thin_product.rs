//! `y = x Wᵀ` for few outputs and any number of rows: the router's logits, in `f32` throughout.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::args::{array, empty};
use super::cube_count;

/// Units of a cube, which share rows.
const UNITS: usize = 256;

/// Elements of a vector.
const LINE: usize = 4;

/// Rows of `x` and of the weight that a cube has: every value that it loads is used as often.
const SIDE: usize = 4;

/// Most outputs: with more, other kernels read `x` less often.
const MOST_OUTPUTS: usize = 512;

/// `x` is `[rows, in]`, `weight` `[out, in]`, the output `F32`, `[rows, out]`. `None` where that is not this kernel's work.
pub(in crate::ops) fn thin_product<R: CubeRuntime>(x: &CubeTensor<R>, weight: &CubeTensor<R>) -> Option<CubeTensor<R>> {
    let (rows, outputs, columns) = (x.shape[0], weight.shape[0], weight.shape[1]);
    if rows == 0 || outputs == 0 || outputs > MOST_OUTPUTS || columns == 0 || !columns.is_multiple_of(LINE) {
        return None;
    }
    let output = empty(x.client.clone(), x.device.clone(), Shape::new([rows, outputs]), DType::F32);
    // SAFETY: rows beyond the last are the last, and are not written; units stay below the length of a row.
    let launched = unsafe {
        thin_product_kernel::launch_unchecked(
            &x.client,
            cube_count(rows.div_ceil(SIDE) * outputs.div_ceil(SIDE)),
            CubeDim::new_1d(UNITS as u32),
            array(x, LINE),
            array(weight, LINE),
            array(&output, 1),
            ScalarArg::new(rows),
            ScalarArg::new(outputs),
            ScalarArg::new(columns / LINE),
            [x.dtype.into(), weight.dtype.into()],
        )
    };
    super::ran("product of few outputs", launched).then_some(output)
}

#[cube(launch_unchecked)]
fn thin_product_kernel<X: Float, W: Float>(
    x: &Array<Line<X>>,
    weight: &Array<Line<W>>,
    y: &mut Array<f32>,
    rows: usize,
    outputs: usize,
    lines: usize,
    #[define(X, W)] _dtypes: [StorageType; 2],
) {
    let unit = UNIT_POS as usize;
    let wide = (outputs + comptime!(SIDE - 1)) / SIDE;
    let (first_row, first_output) = (CUBE_POS / wide * SIDE, CUBE_POS % wide * SIDE);
    // A grid of two axes may have cubes too many.
    if first_row >= rows {
        terminate!();
    }
    let mut sums = Array::<Line<f32>>::lined(comptime!(SIDE * SIDE), LINE);
    #[unroll]
    for i in 0..comptime!(SIDE * SIDE) {
        sums[i] = Line::empty(LINE).fill(0.0);
    }
    let mut at = unit;
    while at < lines {
        let mut inputs = Array::<Line<f32>>::lined(SIDE, LINE);
        #[unroll]
        for i in 0..SIDE {
            let row = select(first_row + i < rows, first_row + i, rows - 1);
            inputs[i] = Line::cast_from(x[row * lines + at]);
        }
        #[unroll]
        for o in 0..SIDE {
            let row = select(first_output + o < outputs, first_output + o, outputs - 1);
            let values = Line::<f32>::cast_from(weight[row * lines + at]);
            #[unroll]
            for i in 0..SIDE {
                sums[comptime!(i * SIDE + o)] += inputs[i] * values;
            }
        }
        at += UNITS;
    }

    // Sixteen units add up each result, then one of them.
    let results = comptime!(SIDE * SIDE);
    let share = comptime!(UNITS / (SIDE * SIDE));
    let mut parts = SharedMemory::<f32>::new(comptime!(SIDE * SIDE * UNITS));
    #[unroll]
    for i in 0..results {
        let four = sums[i];
        parts[comptime!(i * UNITS) + unit] = (four[0] + four[1]) + (four[2] + four[3]);
    }
    sync_cube();
    let (result, own) = (unit / share, unit % share);
    let mut sum = 0.0_f32;
    #[unroll]
    for i in 0..comptime!(UNITS / share) {
        sum += parts[result * UNITS + comptime!(i * share) + own];
    }
    sync_cube();
    parts[unit] = sum;
    sync_cube();
    let (row, output) = (first_row + unit / SIDE, first_output + unit % SIDE);
    if unit < results && row < rows && output < outputs {
        let mut total = 0.0_f32;
        #[unroll]
        for i in 0..share {
            total += parts[unit * share + i];
        }
        y[row * outputs + output] = total;
    }
}
