//! The place of the largest value of each row.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::args::empty;
use super::launch::Launch;

/// Units of a cube, and the values that each of them looks at where that makes few enough cubes.
const UNITS: usize = 256;
const OWN: usize = 8;

/// Index of the largest of each row of `x`, `F32`, `[rows, columns]`, the lowest of equal ones: `I32`, `[rows, 1]`. `None` where that is not
/// this kernel's work.
pub(in crate::ops) fn argmax<R: CubeRuntime>(x: &CubeTensor<R>) -> Option<CubeTensor<R>> {
    let (rows, columns) = (x.shape[0], x.shape[1]);
    if x.dtype != DType::F32 || columns == 0 || !(1..=65_535).contains(&rows) {
        return None;
    }
    let parts = columns.div_ceil(UNITS * OWN);
    let fresh = |shape, dtype| empty(x.client.clone(), x.device.clone(), shape, dtype);
    let values = fresh(Shape::new([rows, parts]), DType::F32);
    let indices = fresh(Shape::new([rows, parts]), DType::I32);
    let best = fresh(Shape::new([rows, 1]), DType::I32);
    let best_values = fresh(Shape::new([rows, 1]), DType::F32);
    // The first launch reads no indices; something has to be bound in their place.
    let launch = |from: [&CubeTensor<R>; 2], to: [&CubeTensor<R>; 2], columns: usize, cubes: usize, first: bool| {
        let mut launch = Launch::new(x);
        let (settings, client) = launch.kernel(CubeDim::new_1d(UNITS as u32));
        let kernel = argmax_kernel::ArgmaxKernel::new(
            settings,
            client,
            launch.array(from[0], 1),
            launch.words(from[1], 1),
            launch.number(columns),
            launch.array(to[0], 1),
            launch.array(to[1], 1),
            first,
        );
        // SAFETY: reads stay in the rows, of `columns` values each; every cube writes a place of its own.
        unsafe { launch.run(CubeCount::Static(cubes as u32, rows as u32, 1), kernel) }
    };
    let launched = launch([x, x], [&values, &indices], columns, parts, true)
        .and_then(|()| launch([&values, &indices], [&best_values, &best], parts, 1, false));
    super::ran("argmax", launched).then_some(best)
}

/// The best of a cube's share of a row, and where it was; `from_indices` says that of the values of a launch that is not the first.
#[cube(launch_unchecked)]
fn argmax_kernel(
    values: &Array<f32>,
    indices: &Array<i32>,
    best_values: &mut Array<f32>,
    best_indices: &mut Array<i32>,
    columns: usize,
    #[comptime] first: bool,
) {
    let (unit, row) = (UNIT_POS as usize, CUBE_POS_Y as usize);
    let cubes = CUBE_COUNT_X as usize;
    let mut highest = SharedMemory::<f32>::new(UNITS);
    let mut places = SharedMemory::<i32>::new(UNITS);
    // Units without a value repeat the row's first.
    let mut best = values[row * columns];
    let mut place = 0usize.runtime();
    let mut at = CUBE_POS_X as usize * UNITS + unit;
    while at < columns {
        let value = values[row * columns + at];
        if value > best {
            best = value;
            place = at;
        }
        at += cubes * UNITS;
    }
    highest[unit] = best;
    if comptime!(first) {
        places[unit] = i32::cast_from(place);
    } else {
        places[unit] = indices[row * columns + place];
    }
    let mut stride = comptime!(UNITS / 2).runtime();
    while stride > 0 {
        sync_cube();
        if unit < stride {
            let (value, other) = (highest[unit + stride], places[unit + stride]);
            if value > highest[unit] || (value == highest[unit] && other < places[unit]) {
                highest[unit] = value;
                places[unit] = other;
            }
        }
        stride /= 2;
    }
    if unit == 0 {
        best_values[row * cubes + CUBE_POS_X as usize] = highest[0];
        best_indices[row * cubes + CUBE_POS_X as usize] = places[0];
    }
}
