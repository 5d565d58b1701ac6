//! `y = x W[g]ᵀ` for groups of rows, each with a weight of its own: every product of the model.

use std::cell::{Cell, RefCell};
use std::mem::MaybeUninit;
use std::ops::{Range, RangeInclusive};

use super::activations::Activations;
use super::foresight::{Coming, Foresight, Reading};
use super::level::Level;
use super::matrix::Matrix;
use super::panel::Panel;
use super::pool::Pool;
use super::share::Share;
use super::tile::{Ahead, Form, MOST, Sums, WIDEST, block_tile, float_tile, width};
use super::tiles::{Tiles, cut};
use super::{block_dot, dot};
use crate::quant::Packing;

/// Least and most bytes of a weight that a task reads where rows are few. Memory gives less where a stream begins, and what was asked for
/// ahead of a task's end is another thread's: tasks are as long as leaves enough of them.
const BYTES_PER_TASK: RangeInclusive<usize> = 1 << 15..=1 << 20;

/// Tasks of a product and thread, so that one which was held up does not hold up all.
const TASKS_PER_THREAD: usize = 8;

/// Bytes that a task reads of a product that reads so many.
pub(super) fn bytes_per_task(bytes: usize, threads: usize) -> usize {
    (bytes / (TASKS_PER_THREAD * threads)).clamp(*BYTES_PER_TASK.start(), *BYTES_PER_TASK.end())
}

/// Most panels of a task where rows are few: each asks for the next one's weights while it is multiplied.
const PANELS_PER_TASK: usize = 16;

/// Tiles from which on a panel is a task of its own: fetching it is little beside the products.
const MANY_TILES: usize = 16;

/// Rows of activations up to which a product reads weights for longer than it multiplies them.
const FEW_ENOUGH: usize = 32;

/// Most rows of activations for which weight rows are multiplied as they are; for more of them, panels pay.
fn few(level: Level, form: Form) -> usize {
    match (level, form) {
        // Products of 4 bits are the cheapest in panels.
        #[cfg(target_arch = "x86_64")]
        (Level::Avx2, Form::Bytes { .. }) => 2,
        _ => dot::MOST,
    }
}

/// What the calling thread keeps from one product to the next.
#[derive(Debug, Default)]
pub(super) struct Kept {
    activations: Activations,
    tiles: Tiles,
    pub(super) foresight: Foresight,
}

thread_local! {
    static EXACT: Cell<bool> = const { Cell::new(false) };
    pub(super) static KEPT: RefCell<Kept> = RefCell::default();
    static PANEL: RefCell<Panel> = RefCell::default();
}

/// Run `work` with products on this thread computed with activations as they are, whatever the weights.
pub(in crate::ops) fn with_exact_activations<T>(work: impl FnOnce() -> T) -> T {
    /// Sets things back, also when `work` panics.
    struct Before(bool);

    impl Drop for Before {
        fn drop(&mut self) {
            EXACT.set(self.0);
        }
    }

    let _before = Before(EXACT.replace(true));
    work()
}

/// Whether products on this thread are.
pub(super) fn are_exact() -> bool {
    EXACT.get()
}

/// One task of a product.
enum Task {
    /// Some rows of a weight times few rows of `x`.
    Dots { group: usize, rows: Range<usize> },
    /// The same for more, panel by panel: `tiles` of `x`.
    Panels { rows: Range<usize>, tiles: Range<usize> },
}

/// `y [rows, out]` of `x [rows, in]` and `weights [groups * out, in]`; `counts` rows of each group.
///
/// Quantised weights are multiplied with activations that are quantised to 8 bits, in blocks of 32 as the weights are; weights in `bf16` with few
/// rows of activations that are rounded to `bf16`, where the processor has products of those.
///
/// # Panics
/// If lengths do not belong together.
pub(in crate::ops::cpu) fn product(
    pool: &Pool,
    level: Level,
    x: &[f32],
    weights: &Matrix,
    counts: &[usize],
) -> Vec<f32> {
    let input = weights.columns();
    let output = weights.rows() / counts.len();
    let rows: usize = counts.iter().sum();
    assert_eq!(weights.rows(), output * counts.len(), "one weight a group");
    assert_eq!(x.len(), rows * input, "rows of each group");
    // Zeros in front would be written by one thread while the others wait.
    let mut y = Vec::with_capacity(rows * output);
    let room = &mut y.spare_capacity_mut()[..rows * output];
    if cfg!(test) {
        room.fill(MaybeUninit::new(f32::NAN));
    }
    KEPT.with_borrow_mut(|kept| run(pool, level, x, weights, counts, room, kept));
    // SAFETY: there is room for as many. Every group with rows has its whole output cut into tasks, all of which have run, and each writes
    // its columns in all rows of the group.
    unsafe { y.set_len(rows * output) };
    y
}

fn run(
    pool: &Pool,
    level: Level,
    x: &[f32],
    weights: &Matrix,
    counts: &[usize],
    y: &mut [MaybeUninit<f32>],
    kept: &mut Kept,
) {
    let (input, output) = (weights.columns(), weights.rows() / counts.len());
    let packing = weights.packing();
    let exact = are_exact();
    let quantized = packing.is_some_and(Packing::has_scales) && !exact;
    let form = if quantized { Form::of(level, packing) } else { Form::Floats };
    let (few, width) = (few(level, form), width(level));

    // Rows of `x` of each group.
    let groups: Vec<Range<usize>> = counts
        .iter()
        .scan(0, |end, &count| {
            *end += count;
            Some(*end - count..*end)
        })
        .collect();
    let mut tiles = Vec::new();
    let mut tasks = Vec::new();
    let row_bytes = weights.row_bytes();
    for (group, rows) in groups.iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
        let of_group = |first: usize| group * output + first;
        if rows.len() <= few {
            let bytes = bytes_per_task(output * row_bytes, pool.threads());
            let band = (bytes / row_bytes).clamp(1, output.div_ceil(pool.threads()).max(1));
            let bands = (0..output).step_by(band);
            tasks.extend(
                bands.map(|first| Task::Dots { group, rows: of_group(first)..of_group((first + band).min(output)) }),
            );
        } else {
            let begin = tiles.len();
            tiles.extend(cut(level, form, rows.clone()));
            let panels = output.div_ceil(width);
            let many = tiles.len() - begin >= MANY_TILES;
            let run = if many { 1 } else { (panels / (4 * pool.threads())).clamp(1, PANELS_PER_TASK) };
            let runs = (0..output).step_by(run * width);
            tasks.extend(runs.map(|first| Task::Panels {
                rows: of_group(first)..of_group((first + run * width).min(output)),
                tiles: begin..tiles.len(),
            }));
        }
    }
    let single: Vec<usize> = groups.iter().filter(|rows| rows.len() <= few).cloned().flatten().collect();
    if let Some(packing) = packing.filter(|_| quantized && !single.is_empty()) {
        kept.activations.quantize(pool, level, packing, x, input, &single);
    }
    if !tiles.is_empty() {
        kept.tiles.fill(pool, level, form, x, input, &tiles);
    }

    // Long products leave nothing of what was asked for in front of them.
    let coming = if x.len() / input <= FEW_ENOUGH {
        kept.foresight.next(Reading::of_groups(weights, counts))
    } else {
        Coming::default()
    };
    let (activations, tile_values) = (&kept.activations, &kept.tiles);
    let y = Share::new(y);
    pool.run_before(coming, tasks.len(), |task| match &tasks[task] {
        Task::Dots { group, rows } => {
            let weight = weights.band(rows.clone());
            let first = rows.start - group * output;
            let Range { start, end } = groups[*group];
            // SAFETY: rows of a weight are one task's, and so are their columns of `y`.
            let put = |at: usize, row: usize, value| unsafe {
                y.set(row * output + first + at, MaybeUninit::new(value));
            };
            for some in (start..end).step_by(dot::MOST) {
                let count = (end - some).min(dot::MOST);
                if quantized {
                    block_dot::dots(level, &weight, activations, some, count, |at, row, sum| put(at, some + row, sum));
                } else {
                    let x = &x[some * input..(some + count) * input];
                    dot::dots(level, &weight, x, exact, |at, row, sum| put(at, some + row, sum));
                }
            }
        }
        Task::Panels { rows, tiles: of_group } => PANEL.with_borrow_mut(|panel| {
            let mut sums: Sums = [[0.0; WIDEST]; MOST];
            let tiles = &tiles[of_group.clone()];
            let band = |first: usize| weights.band(first.min(rows.end)..(first + width).min(rows.end));
            Ahead::new(band(rows.start).words()).ask(0, 1);
            for start in rows.clone().step_by(width) {
                let (weight, next) = (band(start), Ahead::new(band(start + width).words()));
                let first = start % output;
                let put = |tile: &Range<usize>, sums: &Sums| {
                    for (row, sums) in tile.clone().zip(sums) {
                        // SAFETY: as above.
                        let y = unsafe { y.part(row * output + first, weight.rows()) };
                        y.iter_mut().zip(sums).for_each(|(y, sum)| _ = y.write(*sum));
                    }
                };
                if form == Form::Floats {
                    let panel = panel.floats(level, &weight);
                    for tile in tiles {
                        float_tile(level, panel, tile_values.floats(tile), tile.len(), &mut sums);
                        put(tile, &sums);
                    }
                } else {
                    let panel = panel.blocks(level, form, &weight);
                    for (index, tile) in tiles.iter().enumerate() {
                        let ahead = next.part(index, tiles.len());
                        block_tile(level, form, panel, tile_values.blocks(form, tile), tile.len(), ahead, &mut sums);
                        put(tile, &sums);
                    }
                }
            }
        }),
    });
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Weight, numbers};
    use super::*;
    use crate::quant::BLOCK;

    const PACKINGS: [Option<Packing>; 5] =
        [None, Some(Packing::Bf16), Some(Packing::F16), Some(Packing::Q8), Some(Packing::Q4)];

    /// What half a step of each activation can change, where they are rounded.
    fn bound(level: Level, packing: Option<Packing>, x: &[f32], weight: &[f32]) -> f64 {
        let size = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from((a * b).abs())).sum() };
        let rounding = 2e-6 * (1.0 + size(x, weight));
        if dot::rounds(level, packing) {
            // Of eight bits.
            return rounding + size(x, weight) / 512.0;
        }
        if !packing.is_some_and(Packing::has_scales) {
            return rounding;
        }
        let of_block = |(x, weight): (&[f32], &[f32])| {
            let step = f64::from(x.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()))) / 127.0;
            0.5001 * step * weight.iter().map(|weight| f64::from(weight.abs())).sum::<f64>()
        };
        rounding + x.chunks(BLOCK).zip(weight.chunks(BLOCK)).map(of_block).sum::<f64>()
    }

    #[test]
    fn every_level_multiplies_every_packing_in_every_shape() {
        let pool = Pool::global();
        // Widths of odd numbers of blocks and of ends that are no vector; outputs that are no panel; groups without rows.
        for (columns, output) in [(32, 1), (96, 37), (160, 64), (544, 33), (1024, 70)] {
            for packing in PACKINGS {
                let weight = Weight::new(packing, 3 * output, columns);
                let matrix = weight.matrix();
                for counts in [[1, 0, 0], [0, 2, 3], [4, 5, 0], [13, 1, 40]] {
                    let rows: usize = counts.iter().sum();
                    let x = numbers(rows * columns, 2);
                    for level in Level::available() {
                        let y = product(pool, level, &x, &matrix, &counts);
                        let what = format!("{packing:?}, {columns} x {output}, {counts:?}");
                        check(level, &x, &matrix, &counts, &y, &what);
                    }
                }
            }
        }
    }

    fn check(level: Level, x: &[f32], matrix: &Matrix, counts: &[usize], y: &[f32], what: &str) {
        let (columns, output) = (matrix.columns(), matrix.rows() / counts.len());
        let groups = counts.iter().enumerate().flat_map(|(group, &count)| std::iter::repeat_n(group, count));
        let mut values = vec![0.0; columns];
        for ((group, x), y) in groups.zip(x.chunks_exact(columns)).zip(y.chunks_exact(output)) {
            for (column, &found) in y.iter().enumerate() {
                matrix.unpack(group * output + column, &mut values);
                let expected: f64 = values.iter().zip(x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                let error = (f64::from(found) - expected).abs();
                let bound = bound(level, matrix.packing(), x, &values);
                assert!(error <= bound, "{level}, {what}: column {column} is {found} for {expected}, bound {bound:e}");
            }
        }
    }

    #[test]
    fn activations_are_not_rounded_where_that_is_asked_for() {
        let packings = [Packing::Bf16, Packing::Q8, Packing::Q4];
        for (packing, counts) in packings.into_iter().flat_map(|packing| [[2, 0], [3, 20]].map(|c| (packing, c))) {
            let weight = Weight::new(Some(packing), 2 * 37, 96);
            let floats: Vec<f32> = (0..74)
                .flat_map(|row| {
                    let mut values = vec![0.0; 96];
                    weight.matrix().unpack(row, &mut values);
                    values
                })
                .collect();
            let x = numbers(counts.iter().sum::<usize>() * 96, 2);
            for level in Level::available() {
                let y = with_exact_activations(|| product(Pool::global(), level, &x, &weight.matrix(), &counts));
                check(level, &x, &Matrix::floats(&floats, 96), &counts, &y, &format!("{packing}, {counts:?}"));
            }
        }
    }

    #[test]
    fn widths_of_floats_need_not_be_whole_vectors() {
        for (columns, packing) in [(7, None), (50, None), (50, Some(Packing::Bf16)), (18, Some(Packing::F16))] {
            let weight = Weight::new(packing, 21, columns);
            for (count, level) in
                [1, 3, 9].into_iter().flat_map(|count| Level::available().into_iter().map(move |l| (count, l)))
            {
                let x = numbers(count * columns, 2);
                let y = product(Pool::global(), level, &x, &weight.matrix(), &[count]);
                let what = format!("{packing:?}, {columns} wide, {count} rows");
                check(level, &x, &weight.matrix(), &[count], &y, &what);
            }
        }
    }

    #[test]
    fn the_largest_numbers_of_eight_and_four_bits_do_not_overflow() {
        for packing in [Packing::Q8, Packing::Q4] {
            // All of one sign, all of the largest size: sums of 16 bits are fullest then. Also -128, which files may hold.
            let columns = 64;
            let word = if packing == Packing::Q8 { 0x8080_8080 } else { 0xffff_ffff };
            let words = vec![word; 20 * packing.words(columns)];
            let scales = vec![0x3c00; 20 * 2 * packing.scale_words(columns)];
            let matrix = Matrix::packed(packing, columns, &words, &scales);
            for (sign, level) in
                [1.0, -1.0].into_iter().flat_map(|sign| Level::available().into_iter().map(move |l| (sign, l)))
            {
                for count in [1, 2, 5, 9] {
                    let x = vec![sign * 127.0; count * columns];
                    let y = product(Pool::global(), level, &x, &matrix, &[count]);
                    let value = if packing == Packing::Q8 { -128.0 } else { 7.0 };
                    assert!(y.iter().all(|y| *y == sign * 127.0 * 64.0 * value), "{level} {packing}: {}", y[0]);
                }
            }
        }
    }
}
