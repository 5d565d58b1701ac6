//! The norm of a decoded token and its router's logits, which stay on the device.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::ops::numeric::empty_device_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::row_product::{Norm, array};

/// Units of a cube, which has one expert, and the vectors of a row that a unit has under way.
const UNITS: usize = 256;
const AHEAD: usize = 5;

/// Elements of a vector.
const LINE: usize = 4;

/// Logits in `f32`, `[1, experts]`, of the norm of `x`, `[1, in]`, rounded to the type of the norm's weight; `weight` is `[experts, in]`.
/// `None` where that is not this kernel's work.
pub(in crate::ops) fn router_logits<R: CubeRuntime>(
    x: &CubeTensor<R>,
    norm: &Norm<'_, R>,
    weight: &CubeTensor<R>,
) -> Option<CubeTensor<R>> {
    let (experts, columns) = (weight.shape[0], weight.shape[1]);
    if x.shape.num_elements() != columns || !columns.is_multiple_of(LINE) {
        return None;
    }
    let logits = empty_device_dtype(x.client.clone(), x.device.clone(), Shape::new([1, experts]), DType::F32);
    // SAFETY: every unit stays below the lengths, which are those of the tensors.
    let launched = unsafe {
        router_kernel::launch_unchecked(
            &x.client,
            CubeCount::Static(experts as u32, 1, 1),
            CubeDim::new_1d(UNITS as u32),
            array(x, LINE),
            array(norm.weight, LINE),
            array(weight, LINE),
            array(&logits, 1),
            ScalarArg::new(norm.epsilon as f32),
            ScalarArg::new(columns / LINE),
            [x.dtype.into(), norm.weight.dtype.into(), weight.dtype.into()],
        )
    };
    super::ran("norm and router", launched.is_ok()).then_some(logits)
}

#[cube(launch_unchecked)]
fn router_kernel<S: Float, X: Float, W: Float>(
    x: &Array<Line<S>>,
    gamma: &Array<Line<X>>,
    weight: &Array<Line<W>>,
    logits: &mut Array<f32>,
    epsilon: f32,
    lines: usize,
    #[define(S, X, W)] _dtypes: [StorageType; 3],
) {
    let unit = UNIT_POS as usize;
    let mut squares = 0.0_f32;
    let mut at = unit;
    while at < lines {
        #[unroll]
        for a in 0..AHEAD {
            let place = at + a * UNITS;
            let values = Line::<f32>::cast_from(x[select(place < lines, place, 0)]);
            squares += select(place < lines, sum(values * values), 0.0);
        }
        at += comptime!(AHEAD * UNITS);
    }
    let mut parts = SharedMemory::<f32>::new(UNITS);
    // The width as a float of its own: `lines` times four.
    let mean = over_cube(squares, &mut parts) / f32::cast_from(lines * LINE);
    let factor = 1.0 / f32::sqrt(mean + epsilon);

    let row = CUBE_POS * lines;
    let mut logit = 0.0_f32;
    let mut at = unit;
    while at < lines {
        #[unroll]
        for a in 0..AHEAD {
            let place = at + a * UNITS;
            let from = select(place < lines, place, 0);
            let scaled = Line::<X>::cast_from(Line::<f32>::cast_from(x[from]) * Line::empty(LINE).fill(factor));
            // Rounded in between, as the plain definition is.
            let weighted = Line::<X>::cast_from(Line::<f32>::cast_from(scaled) * Line::<f32>::cast_from(gamma[from]));
            let products = Line::<f32>::cast_from(weighted) * Line::<f32>::cast_from(weight[row + from]);
            logit += select(place < lines, sum(products), 0.0);
        }
        at += comptime!(AHEAD * UNITS);
    }
    sync_cube();
    let total = over_cube(logit, &mut parts);
    if unit == 0 {
        logits[CUBE_POS] = total;
    }
}

#[cube]
fn sum(values: Line<f32>) -> f32 {
    (values[0] + values[1]) + (values[2] + values[3])
}

/// The sum of all units' values, for all of them.
#[cube]
fn over_cube(value: f32, parts: &mut SharedMemory<f32>) -> f32 {
    let unit = UNIT_POS as usize;
    parts[unit] = value;
    let mut stride = comptime!(UNITS / 2).runtime();
    while stride > 0 {
        sync_cube();
        if unit < stride {
            parts[unit] += parts[unit + stride];
        }
        stride /= 2;
    }
    sync_cube();
    parts[0]
}
