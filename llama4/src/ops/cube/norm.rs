//! RMS norm of rows.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::args::{array, empty};
use super::cube_count;
use super::reduce::{has_planes, over_cube, over_line};

/// Units of a cube, which has one row, and the vectors that a unit has under way.
pub(super) const UNITS: usize = 256;
const AHEAD: usize = 5;

/// Elements of a vector.
pub(super) const LINE: usize = 4;

/// `x / sqrt(mean(x²) + ε) · w` of every row, `[rows, width]`, of the type of the weight. `None` where rows are not whole vectors.
pub(in crate::ops) fn rms_norm<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weight: &CubeTensor<R>,
    epsilon: f64,
) -> Option<CubeTensor<R>> {
    let (rows, columns) = (x.shape[0], x.shape[1]);
    if rows == 0 || columns == 0 || !columns.is_multiple_of(LINE) {
        return None;
    }
    let output = empty(x.client.clone(), x.device.clone(), x.shape.clone(), weight.dtype);
    // SAFETY: every cube has a row of its own that exists, and its units stay below the row's length.
    let launched = unsafe {
        rms_norm_kernel::launch_unchecked(
            &x.client,
            cube_count(rows),
            CubeDim::new_1d(UNITS as u32),
            array(x, LINE),
            array(weight, LINE),
            array(&output, LINE),
            ScalarArg::new(rows),
            ScalarArg::new(columns / LINE),
            ScalarArg::new(epsilon as f32),
            has_planes(&x.client),
            [x.dtype.into(), weight.dtype.into()],
        )
    };
    super::ran("norm", launched).then_some(output)
}

#[cube(launch_unchecked)]
fn rms_norm_kernel<S: Float, X: Float>(
    x: &Array<Line<S>>,
    weight: &Array<Line<X>>,
    y: &mut Array<Line<X>>,
    rows: usize,
    lines: usize,
    epsilon: f32,
    #[comptime] planes: bool,
    #[define(S, X)] _dtypes: [StorageType; 2],
) {
    if CUBE_POS >= rows {
        terminate!();
    }
    let first = CUBE_POS * lines;
    let mut parts = SharedMemory::<f32>::new(UNITS);
    let factor = rms_factor::<S>(x, first, lines, epsilon, &mut parts, planes);
    let mut at = UNIT_POS as usize;
    while at < lines {
        y[first + at] = weighted::<S, X>(x[first + at], weight[at], factor);
        at += UNITS;
    }
}

/// What the values of a row are multiplied with: `1 / sqrt(mean(x²) + ε)`.
#[cube]
pub(super) fn rms_factor<S: Float>(
    x: &Array<Line<S>>,
    first: usize,
    lines: usize,
    epsilon: f32,
    parts: &mut SharedMemory<f32>,
    #[comptime] planes: bool,
) -> f32 {
    let mut squares = 0.0_f32;
    let mut at = UNIT_POS as usize;
    while at < lines {
        #[unroll]
        for a in 0..AHEAD {
            let place = at + a * UNITS;
            let values = Line::<f32>::cast_from(x[first + select(place < lines, place, 0)]);
            squares += select(place < lines, over_line(values * values), 0.0);
        }
        at += comptime!(AHEAD * UNITS);
    }
    // The width as a float of its own: `lines` times four.
    let mean = over_cube(squares, parts, UNITS, planes) / f32::cast_from(lines * LINE);
    1.0 / f32::sqrt(mean + epsilon)
}

/// Values times the factor and the weight, rounded in between, as the plain definition is, unless the driver knows better: what goes on as `f32`
/// may not be rounded at all.
#[cube]
pub(super) fn weighted<S: Float, X: Float>(values: Line<S>, weight: Line<X>, factor: f32) -> Line<X> {
    let scaled = Line::<X>::cast_from(Line::<f32>::cast_from(values) * Line::empty(LINE).fill(factor));
    Line::<X>::cast_from(Line::<f32>::cast_from(scaled) * Line::<f32>::cast_from(weight))
}
