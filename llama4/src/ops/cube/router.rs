//! The norm of a token and its router's logits, which stay on the device.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::args::empty;
use super::launch::Launch;
use super::norm::{LINE, UNITS, rms_factor, weighted};
use super::reduce::{has_planes, over_cube, over_line};
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
    let logits = empty(x.client.clone(), x.device.clone(), Shape::new([rows, experts]), DType::F32);
    let mut launch = Launch::new(x);
    let (settings, client) = launch.kernel(CubeDim::new_1d(UNITS as u32));
    let kernel = router_kernel::RouterKernel::new(
        settings,
        client,
        launch.array(x, LINE),
        launch.array(norm.weight, LINE),
        launch.array(weight, LINE),
        launch.array(&logits, 1),
        columns / LINE,
        (norm.epsilon as f32).to_bits(),
        has_planes(&x.client),
        [x.dtype.into(), norm.weight.dtype.into(), weight.dtype.into()],
    );
    // SAFETY: every unit stays below the lengths, which are those of the tensors.
    let launched = unsafe { launch.run(CubeCount::Static(experts as u32, rows as u32, 1), kernel) };
    super::ran("norm and router", launched).then_some(logits)
}

#[cube(launch_unchecked)]
fn router_kernel<S: Float, X: Float, W: Float>(
    x: &Array<Line<S>>,
    gamma: &Array<Line<X>>,
    weight: &Array<Line<W>>,
    logits: &mut Array<f32>,
    #[comptime] lines: usize,
    #[comptime] epsilon: u32,
    #[comptime] planes: bool,
    #[define(S, X, W)] _dtypes: [StorageType; 3],
) {
    let unit = UNIT_POS as usize;
    let first = CUBE_POS_Y as usize * lines;
    let row = CUBE_POS_X as usize * lines;
    // The first vectors of the weights are on their way while the norm is found.
    let mut weights = Array::<Line<W>>::lined(AHEAD, LINE);
    let mut gammas = Array::<Line<X>>::lined(AHEAD, LINE);
    #[unroll]
    for a in 0..AHEAD {
        let place = unit + a * UNITS;
        let from = select(place < lines, place, 0);
        weights[a] = weight[row + from];
        gammas[a] = gamma[from];
    }
    let mut parts = SharedMemory::<f32>::new(UNITS);
    let factor = rms_factor::<S>(x, first, lines, comptime!(f32::from_bits(epsilon)).runtime(), &mut parts, planes);

    let mut logit = 0.0_f32;
    let mut at = unit;
    while at < lines {
        #[unroll]
        for a in 0..AHEAD {
            let place = at + a * UNITS;
            let from = select(place < lines, place, 0);
            let weighted = weighted::<S, X>(x[first + from], gammas[a], factor);
            let products = Line::<f32>::cast_from(weighted) * Line::<f32>::cast_from(weights[a]);
            logit += select(place < lines, over_line(products), 0.0);
        }
        at += comptime!(AHEAD * UNITS);
        if at < lines {
            #[unroll]
            for a in 0..AHEAD {
                let place = at + a * UNITS;
                let from = select(place < lines, place, 0);
                weights[a] = weight[row + from];
                gammas[a] = gamma[from];
            }
        }
    }
    let total = over_cube(logit, &mut parts, UNITS, planes);
    if unit == 0 {
        logits[CUBE_POS] = total;
    }
}
