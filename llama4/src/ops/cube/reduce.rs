//! Sums over the units of a cube.

use cubecl::features::Plane;
use cubecl::prelude::*;

/// Units of a plane, where sums go by planes.
const PLANE: usize = 32;

/// Whether units of a device add up their values plane by plane, each of 32.
pub(super) fn has_planes<R: Runtime>(client: &ComputeClient<R>) -> bool {
    let (hardware, features) = (&client.properties().hardware, &client.properties().features);
    let sizes = [hardware.plane_size_min, hardware.plane_size_max];
    sizes.iter().all(|size| *size as usize == PLANE) && features.plane.contains(Plane::Ops)
}

/// The sum of all units' values, for all of them; `parts` has room for `units`, a power of two, whole planes where sums go by planes.
#[cube]
pub(super) fn over_cube(
    value: f32,
    parts: &mut SharedMemory<f32>,
    #[comptime] units: usize,
    #[comptime] planes: bool,
) -> f32 {
    let unit = UNIT_POS as usize;
    // What an earlier sum left may still be read.
    sync_cube();
    let mut sum = 0.0_f32;
    if comptime!(planes) {
        let of_plane = plane_sum(value);
        if unit.is_multiple_of(PLANE) {
            parts[unit / PLANE] = of_plane;
        }
        sync_cube();
        #[unroll]
        for plane in 0..comptime!(units / PLANE) {
            sum += parts[plane];
        }
    } else {
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
        sum += parts[0];
    }
    sum
}

/// The sum of a vector of four.
#[cube]
pub(super) fn over_line(values: Line<f32>) -> f32 {
    (values[0] + values[1]) + (values[2] + values[3])
}
