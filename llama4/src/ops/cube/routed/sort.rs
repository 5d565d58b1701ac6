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

/// Rows of a unit of which it keeps whether they are its group's.
const KNOWN: usize = 32;

/// Most vectors of a row that are asked for at once.
const UNROLLED: usize = 8;

/// `logits` are `F32`, `[rows, groups]`. Of equal ones the first is the highest; those that are no numbers are never it, unless the first is none.
pub(in crate::ops::cube) fn sort<R: CubeRuntime>(logits: &CubeTensor<R>) -> Option<Sorted<R>> {
    let (rows, groups) = (logits.shape[0], logits.shape[1]);
    if logits.dtype != DType::F32 || rows == 0 || !(1..=MOST_GROUPS).contains(&groups) {
        return None;
    }
    let sorted = Sorted::empty(logits, [rows, groups]);
    let line = if groups.is_multiple_of(4) { 4 } else { 1 };
    // SAFETY: units stay below `rows`, cubes below `groups`, and the places of all groups' rows are different and below `rows`.
    let launched = unsafe {
        sort_kernel::launch_unchecked(
            &logits.client,
            CubeCount::Static(groups as u32, 1, 1),
            CubeDim::new_1d(UNITS as u32),
            array(logits, line),
            array(&sorted.counts, 1),
            array(&sorted.rows, 1),
            array(&sorted.places, 1),
            array(&sorted.scores, 1),
            ScalarArg::new(rows),
            groups / line,
            line,
        )
    };
    crate::ops::cube::ran("sort by expert", launched).then_some(sorted)
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "a kernel's buffers")]
fn sort_kernel(
    logits: &Array<Line<f32>>,
    counts: &mut Array<u32>,
    sorted_rows: &mut Array<u32>,
    places: &mut Array<u32>,
    scores: &mut Array<f32>,
    rows: usize,
    #[comptime] lines: usize,
    #[comptime] line: usize,
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
    // Which of the first rows are this group's, a bit each.
    let mut known = 0u32.runtime();
    for row in first..end {
        let chosen = Highest::of(logits, row * lines, lines, line).place;
        let is_own = select(chosen == group, 1u32, 0u32);
        of_earlier += select(chosen < group, 1u32, 0u32);
        of_own += is_own;
        if row - first < KNOWN {
            known |= is_own << (row - first) as u32;
        }
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
        // Both sides are computed, and no shift may be beyond the word.
        if row - first >= KNOWN || (known >> ((row - first) % KNOWN) as u32) % 2 == 1 {
            let highest = Highest::of(logits, row * lines, lines, line);
            if highest.place == group {
                sorted_rows[place as usize] = row as u32;
                places[row] = place;
                scores[row] = 1.0 / (1.0 + f32::exp(0.0 - highest.value));
                place += 1;
            }
        }
    }
}

/// The highest of some values, and which of them it is.
#[derive(CubeType)]
struct Highest {
    value: f32,
    place: usize,
}

#[cube]
impl Highest {
    /// Of the values in `lines` vectors from the one at `start` on.
    fn of(values: &Array<Line<f32>>, start: usize, #[comptime] lines: usize, #[comptime] line: usize) -> Highest {
        let first = values[start];
        let mut value = first[0];
        let mut place = 0usize.runtime();
        #[unroll(lines <= UNROLLED)]
        for at in 0..lines {
            let next = values[start + at];
            #[unroll]
            for i in 0..line {
                if next[i] > value {
                    value = next[i];
                    place = at * line + i;
                }
            }
        }
        Highest { value, place }
    }
}
