//! Rows in the order of the groups that their logits choose, those of a group in the order in which they came.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::Sorted;
use crate::ops::cube::args::array;

/// Units of a cube, which has a group: each looks at as many neighbouring rows as the others.
const UNITS: usize = 256;

/// Most groups: every cube looks at all logits.
const MOST_GROUPS: usize = 512;

/// `logits` are `F32`, `[rows, groups]`. Of equal ones the first is the highest; those that are no numbers are never it, unless the first is none.
pub(in crate::ops::cube) fn sort<R: CubeRuntime>(logits: &CubeTensor<R>) -> Option<Sorted<R>> {
    let (rows, groups) = (logits.shape[0], logits.shape[1]);
    if logits.dtype != DType::F32 || rows == 0 || !(1..=MOST_GROUPS).contains(&groups) {
        return None;
    }
    let sorted = Sorted::empty(logits, [rows, groups]);
    // SAFETY: units stay below `rows`, cubes below `groups`, and the places of all groups' rows are different and below `rows`.
    let launched = unsafe {
        sort_kernel::launch_unchecked(
            &logits.client,
            CubeCount::Static(groups as u32, 1, 1),
            CubeDim::new_1d(UNITS as u32),
            array(logits, 1),
            array(&sorted.counts, 1),
            array(&sorted.rows, 1),
            array(&sorted.places, 1),
            array(&sorted.scores, 1),
            ScalarArg::new(rows),
            ScalarArg::new(groups),
        )
    };
    crate::ops::cube::ran("sort by expert", launched).then_some(sorted)
}

#[cube(launch_unchecked)]
fn sort_kernel(
    logits: &Array<f32>,
    counts: &mut Array<u32>,
    sorted_rows: &mut Array<u32>,
    places: &mut Array<u32>,
    scores: &mut Array<f32>,
    rows: usize,
    groups: usize,
) {
    let (group, unit) = (CUBE_POS, UNIT_POS as usize);
    let share = (rows + comptime!(UNITS - 1)) / UNITS;
    let first = unit * share;
    let first = select(first < rows, first, rows);
    let end = select(first + share < rows, first + share, rows);

    // A unit's rows that go to an earlier group, and to this one; then those of the units up to it.
    let mut earlier = SharedMemory::<u32>::new(UNITS);
    let mut own = SharedMemory::<u32>::new(UNITS);
    let (mut of_earlier, mut of_own) = (0u32.runtime(), 0u32.runtime());
    for row in first..end {
        let highest = highest(logits, row * groups, groups);
        of_earlier += select(highest < group, 1u32, 0u32);
        of_own += select(highest == group, 1u32, 0u32);
    }
    let before = of_own;
    let mut apart = 1usize.runtime();
    while apart < UNITS {
        earlier[unit] = of_earlier;
        own[unit] = of_own;
        sync_cube();
        if unit >= apart {
            of_earlier += earlier[unit - apart];
            of_own += own[unit - apart];
        }
        sync_cube();
        apart *= 2;
    }
    earlier[unit] = of_earlier;
    sync_cube();
    if unit == comptime!(UNITS - 1) {
        counts[group] = of_own;
    }

    let mut place = earlier[comptime!(UNITS - 1)] + of_own - before;
    for row in first..end {
        let start = row * groups;
        if highest(logits, start, groups) == group {
            sorted_rows[place as usize] = row as u32;
            places[row] = place;
            scores[row] = 1.0 / (1.0 + f32::exp(0.0 - logits[start + group]));
            place += 1;
        }
    }
}

/// Which of the values from `start` on is the highest.
#[cube]
fn highest(values: &Array<f32>, start: usize, count: usize) -> usize {
    let mut best = values[start];
    let mut place = 0usize.runtime();
    for at in 1..count {
        let value = values[start + at];
        if value > best {
            best = value;
            place = at;
        }
    }
    place
}
