//! Rotation, norm and scale of heads.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::args::{array, empty, words};
use super::cube_count;
use super::reduce::over_line;

/// Units of a cube, at most.
const UNITS: usize = 256;

/// Elements of a vector.
const LINE: usize = 4;

/// What is done to heads; where nothing is, `None`.
pub(in crate::ops) struct Steps<'a, R: CubeRuntime> {
    /// Cosine and sine of every pair of each token, `F32`, `[tokens, 1, head_dim / 2]`.
    pub(in crate::ops) rotation: Option<(&'a CubeTensor<R>, &'a CubeTensor<R>)>,
    /// Epsilon of the norm of each head.
    pub(in crate::ops) norm: Option<f64>,
    /// A factor for each token, `F32`.
    pub(in crate::ops) temperature: Option<&'a CubeTensor<R>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Plan {
    /// Vectors of a head.
    pub(super) lines: usize,
    /// Heads of a cube.
    pub(super) heads: usize,
    pub(super) rotated: bool,
    pub(super) normed: bool,
    pub(super) tempered: bool,
}

/// The steps done to `x`, `[tokens, heads, head_dim]`. `None` where that is not this kernel's work.
pub(in crate::ops) fn position_heads<R: CubeRuntime>(x: &CubeTensor<R>, steps: &Steps<'_, R>) -> Option<CubeTensor<R>> {
    let [tokens, heads, width] = *x.shape.dims.as_slice() else { return None };
    let lines = width / LINE;
    if tokens * heads == 0 || !width.is_multiple_of(LINE) || lines > UNITS {
        return None;
    }
    let plan = Plan {
        lines,
        heads: UNITS / lines,
        rotated: steps.rotation.is_some(),
        normed: steps.norm.is_some(),
        tempered: steps.temperature.is_some(),
    };
    let output = empty(x.client.clone(), x.device.clone(), x.shape.clone(), x.dtype);
    // Something to bind in the place of what is not there.
    let (cos, sin) = steps.rotation.unwrap_or((x, x));
    let temperature = steps.temperature.unwrap_or(x);
    // SAFETY: units beyond the last head work on it again and write nothing; cosine, sine and temperature are read where they are bound.
    let launched = unsafe {
        heads_kernel::launch_unchecked(
            &x.client,
            cube_count((tokens * heads).div_ceil(plan.heads)),
            CubeDim::new_2d(lines as u32, plan.heads as u32),
            array(x, LINE),
            words(cos, 1),
            words(sin, 1),
            words(temperature, 1),
            array(&output, LINE),
            ScalarArg::new(tokens * heads),
            ScalarArg::new(heads),
            ScalarArg::new(steps.norm.unwrap_or(0.0) as f32),
            plan,
            x.dtype.into(),
        )
    };
    super::ran("heads", launched).then_some(output)
}

#[cube(launch_unchecked)]
fn heads_kernel<X: Float>(
    x: &Array<Line<X>>,
    cos: &Array<f32>,
    sin: &Array<f32>,
    temperature: &Array<f32>,
    y: &mut Array<Line<X>>,
    count: usize,
    heads: usize,
    epsilon: f32,
    #[comptime] plan: Plan,
    #[define(X)] _dtype: StorageType,
) {
    let (lane, own) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let number = CUBE_POS * plan.heads + own;
    let head = select(number < count, number, count - 1);
    let token = head / heads;
    let mut four = Line::<f32>::cast_from(x[head * plan.lines + lane]);
    if comptime!(plan.rotated) {
        four = rotated::<X>(four, cos, sin, token * comptime!(2 * plan.lines) + 2 * lane);
    }
    if comptime!(plan.normed) {
        let mut squares = SharedMemory::<f32>::new(comptime!(plan.lines * plan.heads));
        squares[own * plan.lines + lane] = over_line(four * four);
        sync_cube();
        let mut sum = 0.0_f32;
        #[unroll]
        for other in 0..plan.lines {
            sum += squares[own * plan.lines + other];
        }
        let factor = 1.0 / f32::sqrt(sum / comptime!((plan.lines * LINE) as f32) + epsilon);
        four = rounded::<X>(four * Line::empty(LINE).fill(factor));
    }
    if comptime!(plan.tempered) {
        four *= Line::empty(LINE).fill(temperature[token]);
    }
    if number < count {
        y[head * plan.lines + lane] = Line::cast_from(four);
    }
}

/// Two pairs turned by their angles, whose cosines and sines begin at `at`.
#[cube]
pub(super) fn rotated<X: Float>(four: Line<f32>, cos: &Array<f32>, sin: &Array<f32>, at: usize) -> Line<f32> {
    let mut turned = Line::<f32>::empty(LINE);
    #[unroll]
    for pair in 0..2usize {
        let (c, s) = (cos[at + pair], sin[at + pair]);
        let (a, b) = (four[comptime!(2 * pair)], four[comptime!(2 * pair + 1)]);
        turned[comptime!(2 * pair)] = a * c - b * s;
        turned[comptime!(2 * pair + 1)] = a * s + b * c;
    }
    rounded::<X>(turned)
}

/// Values as `X` holds them: the plain definition rounds after each step.
#[cube]
pub(super) fn rounded<X: Float>(four: Line<f32>) -> Line<f32> {
    Line::<f32>::cast_from(Line::<X>::cast_from(four))
}
