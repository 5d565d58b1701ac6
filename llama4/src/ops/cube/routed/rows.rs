//! Rows to the places of their experts, and back.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::Sorted;
use crate::ops::cube::args::{array, empty};
use crate::ops::cube::{cube_count, ran};

/// Units of a cube; every unit has one vector.
const UNITS: usize = 256;

/// Elements of a vector.
const LINE: usize = 4;

/// Rows of `x` in the order in which they are sorted, each times its score, which is rounded to the type of `x` before. `None` where rows are not
/// whole vectors.
pub(super) fn take_scaled<R: CubeRuntime>(x: &CubeTensor<R>, sorted: &Sorted<R>) -> Option<CubeTensor<R>> {
    let [lines, width] = lines_of(x)?;
    let output = empty(x.client.clone(), x.device.clone(), x.shape.clone(), x.dtype);
    // SAFETY: a row for each place, and rows are as long as those of `x`.
    let launched = unsafe {
        take_scaled_kernel::launch_unchecked(
            &x.client,
            cube_count(lines.div_ceil(UNITS)),
            CubeDim::new_1d(UNITS as u32),
            array(x, LINE),
            array(&sorted.rows, 1),
            array(&sorted.scores, 1),
            array(&output, LINE),
            ScalarArg::new(lines),
            ScalarArg::new(width),
            x.dtype.into(),
        )
    };
    ran("rows in the order of experts", launched).then_some(output)
}

/// `x` plus the row of `y` at the place of each of its rows; both are of the same type.
pub(super) fn add_placed<R: CubeRuntime>(
    x: &CubeTensor<R>,
    y: &CubeTensor<R>,
    sorted: &Sorted<R>,
) -> Option<CubeTensor<R>> {
    let [lines, width] = lines_of(x)?;
    let output = empty(x.client.clone(), x.device.clone(), x.shape.clone(), x.dtype);
    // SAFETY: a place for each row, and rows of `y` are as long as those of `x`.
    let launched = unsafe {
        add_placed_kernel::launch_unchecked(
            &x.client,
            cube_count(lines.div_ceil(UNITS)),
            CubeDim::new_1d(UNITS as u32),
            array(x, LINE),
            array(y, LINE),
            array(&sorted.places, 1),
            array(&output, LINE),
            ScalarArg::new(lines),
            ScalarArg::new(width),
            x.dtype.into(),
        )
    };
    ran("sum with routed experts", launched).then_some(output)
}

/// Vectors of all rows, and of each.
fn lines_of<R: CubeRuntime>(x: &CubeTensor<R>) -> Option<[usize; 2]> {
    let (rows, columns) = (x.shape[0], x.shape[1]);
    (columns > 0 && columns.is_multiple_of(LINE)).then_some([rows * columns / LINE, columns / LINE])
}

#[cube(launch_unchecked)]
fn take_scaled_kernel<X: Float>(
    x: &Array<Line<X>>,
    rows: &Array<u32>,
    scores: &Array<f32>,
    y: &mut Array<Line<X>>,
    lines: usize,
    width: usize,
    #[define(X)] _dtype: StorageType,
) {
    let position = ABSOLUTE_POS;
    if position >= lines {
        terminate!();
    }
    let row = rows[position / width] as usize;
    let score = f32::cast_from(X::cast_from(scores[row]));
    let values = Line::<f32>::cast_from(x[row * width + position % width]);
    y[position] = Line::cast_from(values * Line::empty(LINE).fill(score));
}

#[cube(launch_unchecked)]
fn add_placed_kernel<X: Float>(
    x: &Array<Line<X>>,
    y: &Array<Line<X>>,
    places: &Array<u32>,
    sums: &mut Array<Line<X>>,
    lines: usize,
    width: usize,
    #[define(X)] _dtype: StorageType,
) {
    let position = ABSOLUTE_POS;
    if position >= lines {
        terminate!();
    }
    let from = places[position / width] as usize * width + position % width;
    sums[position] = Line::cast_from(Line::<f32>::cast_from(x[position]) + Line::<f32>::cast_from(y[from]));
}
