//! The norm of a token and its router's logits, which stay on the device.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::ops::numeric::empty_device_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::args::array;
use super::norm::{LINE, UNITS, rms_factor, weighted};
use super::reduce::{over_cube, over_line};
use super::row_product::Norm;

/// Vectors of a row that a unit has under way.
const AHEAD: usize = 5;

/// Logits in `f32`, `[rows, experts]`, of the norm of `x`, `[rows, in]`, rounded to the type of the norm's weight; `weight` is `[experts, in]`.
/// `None` where that is not this kernel's work.
pub(in crate::ops) fn router_logits<R: CubeRuntime>(
    x: &CubeTensor<R>,
    norm: &Norm<'_, R>,
    weight: &CubeTensor<R>,
) -> Option<CubeTensor<R>> {
    let (experts, columns) = (weight.shape[0], weight.shape[1]);
    let rows = x.shape[0];
    if !(1..=65_535).contains(&rows) || !columns.is_multiple_of(LINE) {
        return None;
    }
    let logits = empty_device_dtype(x.client.clone(), x.device.clone(), Shape::new([rows, experts]), DType::F32);
    // SAFETY: every unit stays below the lengths, which are those of the tensors.
    let launched = unsafe {
        router_kernel::launch_unchecked(
            &x.client,
            CubeCount::Static(experts as u32, rows as u32, 1),
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
    super::ran("norm and router", launched).then_some(logits)
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
    let first = CUBE_POS_Y as usize * lines;
    let mut parts = SharedMemory::<f32>::new(UNITS);
    let factor = rms_factor::<S>(x, first, lines, epsilon, &mut parts);

    let row = CUBE_POS_X as usize * lines;
    let mut logit = 0.0_f32;
    let mut at = unit;
    while at < lines {
        #[unroll]
        for a in 0..AHEAD {
            let place = at + a * UNITS;
            let from = select(place < lines, place, 0);
            let weighted = weighted::<S, X>(x[first + from], gamma[from], factor);
            let products = Line::<f32>::cast_from(weighted) * Line::<f32>::cast_from(weight[row + from]);
            logit += select(place < lines, over_line(products), 0.0);
        }
        at += comptime!(AHEAD * UNITS);
    }
    let total = over_cube(logit, &mut parts, UNITS);
    if unit == 0 {
        logits[CUBE_POS] = total;
    }
}
