use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::ops::cube::args::empty;

use super::cube_count;

/// Units of a cube, and the most cubes: enough to keep every memory channel of a large device busy.
const UNITS: usize = 256;
const CUBES: usize = 4096;

/// Elements of a vector that is loaded at once.
const LINE: usize = 4;

/// Partial sums of an `f32` tensor, which is read once. `None` where it is not whole vectors.
pub(in crate::ops) fn partial_sums<R: CubeRuntime>(x: &CubeTensor<R>) -> Option<CubeTensor<R>> {
    let count = x.shape.num_elements();
    if x.dtype != DType::F32 || count == 0 || !count.is_multiple_of(LINE) {
        return None;
    }
    let lines = count / LINE;
    let cubes = lines.div_ceil(UNITS).min(CUBES);
    let sums = empty(x.client.clone(), x.device.clone(), Shape::new([cubes * UNITS]), DType::F32);
    // SAFETY: the lengths are those of the tensors, and every unit stays below them.
    let launched = unsafe {
        partial_sums_kernel::launch_unchecked(
            &x.client,
            cube_count(cubes),
            CubeDim::new_1d(UNITS as u32),
            x.as_array_arg::<f32>(LINE),
            sums.as_array_arg::<f32>(1),
            ScalarArg::new(lines),
            ScalarArg::new(cubes * UNITS),
        )
    };
    super::ran("partial sums", launched).then_some(sums)
}

#[cube(launch_unchecked)]
fn partial_sums_kernel(x: &Array<Line<f32>>, sums: &mut Array<f32>, lines: usize, units: usize) {
    let mut sum = Line::<f32>::empty(LINE).fill(0.0);
    let mut at = ABSOLUTE_POS;
    while at < lines {
        sum += x[at];
        at += units;
    }
    sums[ABSOLUTE_POS] = sum[0] + sum[1] + sum[2] + sum[3];
}
