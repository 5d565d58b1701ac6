//! `silu(gate) · up`.

use burn::tensor::Shape;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::args::{array, empty};
use super::cube_count;

/// Units of a cube; every unit has one vector.
const UNITS: usize = 256;

/// Elements of a vector.
const LINE: usize = 4;

/// Gate and up of the same shape, `[rows, width]`, which is the output's. `None` where rows are not whole vectors.
pub(in crate::ops) fn swiglu<R: CubeRuntime>(gate: &CubeTensor<R>, up: &CubeTensor<R>) -> Option<CubeTensor<R>> {
    let width = *gate.shape.dims.last()?;
    launch(gate, up, width, [0, 0, width])
}

/// Gate and up in the halves of each row, `[rows, 2 * width]`.
pub(in crate::ops) fn swiglu_halves<R: CubeRuntime>(gate_up: &CubeTensor<R>) -> Option<CubeTensor<R>> {
    let width = gate_up.shape.dims.last()? / 2;
    launch(gate_up, gate_up, width, [0, width, 2 * width])
}

/// Of rows that lie `stride` apart, gate and up from `gate_at` and `up_at` on.
fn launch<R: CubeRuntime>(
    gate: &CubeTensor<R>,
    up: &CubeTensor<R>,
    width: usize,
    [gate_at, up_at, stride]: [usize; 3],
) -> Option<CubeTensor<R>> {
    let rows = gate.shape[0];
    if rows == 0 || width == 0 || !width.is_multiple_of(LINE) || gate.dtype != up.dtype {
        return None;
    }
    let output = empty(gate.client.clone(), gate.device.clone(), Shape::new([rows, width]), gate.dtype);
    let lines = rows * width / LINE;
    // SAFETY: reads stay in the rows of both, writes below the output's length.
    let launched = unsafe {
        swiglu_kernel::launch_unchecked(
            &gate.client,
            cube_count(lines.div_ceil(UNITS)),
            CubeDim::new_1d(UNITS as u32),
            array(gate, LINE),
            array(up, LINE),
            array(&output, LINE),
            ScalarArg::new(lines),
            ScalarArg::new(width / LINE),
            ScalarArg::new(stride / LINE),
            ScalarArg::new(gate_at / LINE),
            ScalarArg::new(up_at / LINE),
            gate.dtype.into(),
        )
    };
    super::ran("gate", launched).then_some(output)
}

#[cube(launch_unchecked)]
fn swiglu_kernel<X: Float>(
    gate: &Array<Line<X>>,
    up: &Array<Line<X>>,
    y: &mut Array<Line<X>>,
    lines: usize,
    width: usize,
    stride: usize,
    gate_at: usize,
    up_at: usize,
    #[define(X)] _dtype: StorageType,
) {
    let position = ABSOLUTE_POS;
    if position >= lines {
        terminate!();
    }
    let from = position / width * stride + position % width;
    let gate = Line::<f32>::cast_from(gate[from + gate_at]);
    let up = Line::<f32>::cast_from(up[from + up_at]);
    let (zero, one) = (Line::<f32>::empty(LINE).fill(0.0), Line::<f32>::empty(LINE).fill(1.0));
    // CUDA's vectors have no unary minus.
    y[position] = Line::cast_from(gate / (one + Line::exp(zero - gate)) * up);
}
