//! Sums over the units of a cube.

use cubecl::prelude::*;

/// The sum of all units' values, for all of them; `parts` has room for `units`, a power of two.
#[cube]
pub(super) fn over_cube(value: f32, parts: &mut SharedMemory<f32>, #[comptime] units: usize) -> f32 {
    let unit = UNIT_POS as usize;
    // What an earlier sum left may still be read.
    sync_cube();
    parts[unit] = value;
    let mut stride = comptime!(units / 2).runtime();
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

/// The sum of a vector of four.
#[cube]
pub(super) fn over_line(values: Line<f32>) -> f32 {
    (values[0] + values[1]) + (values[2] + values[3])
}
