//! Rows of activations as blocks of bytes, which is what products with quantised weights are computed with.

use std::cell::RefCell;

use super::level::{Level, at_levels};
use super::lines::Lines;
use super::pool::Pool;
use super::rounding::round;
use super::share::Share;
use crate::quant::{BLOCK, Packing};

/// Blocks that the kernels take together.
pub(super) const GROUP: usize = 16;

/// Rows in 8 bits: `q · s`, `q` in -127..=127, one `f32` scale `s` for each block of 32.
///
/// Padded with scales of zero to whole groups of 16 blocks, so that kernels need not look where a row ends.
#[derive(Debug, Default)]
pub(super) struct Activations {
    /// Values of a row with its padding.
    width: usize,
    rows: usize,
    /// `[rows, width]`. For `Q8` in their own order; for `Q4` the first halves of [`together`] blocks, then their second halves, as a
    /// register of such a weight has them in its low and high nibbles.
    quants: Lines,
    /// What to start the sum of four products (`Q8`, AVX-512 alone) or eight (`Q4`) with, where weights are taken as unsigned: minus their
    /// offset (128 or 8) times the sum of the activations.
    starts: Vec<i32>,
    /// `[rows, width / 32]`
    scales: Vec<f32>,
}

impl Activations {
    /// Quantise those of the rows of `x` that are `wanted`, for products with weights of this packing.
    pub(super) fn quantize(
        &mut self,
        pool: &Pool,
        level: Level,
        packing: Packing,
        x: &[f32],
        columns: usize,
        wanted: &[usize],
    ) {
        let rows = x.len() / columns;
        let width = columns.next_multiple_of(GROUP * BLOCK);
        (self.rows, self.width) = (rows, width);
        let quants = Share::new(bytemuck::cast_slice_mut(self.quants.words(rows * width / 4)));
        self.scales.resize(rows * width / BLOCK, 0.0);
        let scales = Share::new(&mut self.scales);
        self.starts.resize(rows * width / lanes(packing), 0);
        let starts = Share::new(&mut self.starts);
        assert!(wanted.is_sorted_by(|row, next| row < next), "each row once");
        pool.run(wanted.len(), |index| {
            let row = wanted[index];
            let x = &x[row * columns..][..columns];
            let (blocks, sums) = (width / BLOCK, width / lanes(packing));
            // SAFETY: each row has places of its own, and comes once.
            let (quants, scales, starts) = unsafe {
                (quants.part(row * width, width), scales.part(row * blocks, blocks), starts.part(row * sums, sums))
            };
            // Of the padding only the scales matter: whatever the bytes are, they are multiplied with zero.
            scales[columns / BLOCK..].fill(0.0);
            match packing {
                Packing::Q4 => quantize_q4(level, x, quants, starts, scales),
                _ => quantize_q8(level, x, quants, starts, scales),
            }
        });
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// The rows from `first` on, with as much of each as a row takes.
    pub(super) fn rows_from(&self, first: usize) -> Rows<'_> {
        let (start_width, scale_width) = (self.starts.len() / self.rows(), self.width / BLOCK);
        Rows {
            quants: &bytemuck::cast_slice(self.quants.held())[first * self.width..self.rows * self.width],
            width: self.width,
            starts: &self.starts[first * start_width..],
            start_width,
            scales: &self.scales[first * scale_width..],
            scale_width,
        }
    }
}

/// Some rows of [`Activations`].
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "other levels take weights as signed"))]
pub(super) struct Rows<'a> {
    pub(super) quants: &'a [i8],
    /// Values of a row.
    pub(super) width: usize,
    pub(super) starts: &'a [i32],
    /// Starts of a row.
    pub(super) start_width: usize,
    pub(super) scales: &'a [f32],
    /// Scales of a row.
    pub(super) scale_width: usize,
}

/// Blocks of 4-bit weights, 16 bytes each, that a register of the level takes.
pub(super) fn together(level: Level) -> usize {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => 4,
        _ => 2,
    }
}

/// Products that one 32-bit sum of a kernel takes together.
fn lanes(packing: Packing) -> usize {
    if packing == Packing::Q4 { 8 } else { 4 }
}

/// Where the first half of a block is; the second half is `16 * together` further.
#[inline(always)]
pub(super) fn place_q4(together: usize, block: usize) -> usize {
    block / together * 32 * together + block % together * 16
}

/// Bytes in their own order.
fn quantize_q8(level: Level, x: &[f32], quants: &mut [i8], starts: &mut [i32], scales: &mut [f32]) {
    let (quants, blocks) = (&mut quants[..x.len()], x.len() / BLOCK);
    round(level, x, quants, &mut scales[..blocks]);
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512 {
        starts_q8(level, quants, starts);
    }
    let _ = starts;
}

#[cfg(target_arch = "x86_64")]
at_levels! {
    fn starts_q8(level: Level, quants: &[i8], starts: &mut [i32]) {
        for (start, four) in starts.iter_mut().zip(quants.as_chunks::<4>().0) {
            *start = -128 * four.iter().map(|&quant| i32::from(quant)).sum::<i32>();
        }
    }
}

/// Blocks side by side, as [`place_q4`] says.
fn quantize_q4(level: Level, x: &[f32], quants: &mut [i8], starts: &mut [i32], scales: &mut [f32]) {
    thread_local! {
        static ROOM: RefCell<Vec<i8>> = RefCell::default();
    }
    ROOM.with_borrow_mut(|room| {
        room.resize(x.len(), 0);
        round(level, x, room, &mut scales[..x.len() / BLOCK]);
        spread_q4(level, together(level), room, quants, starts);
    });
}

at_levels! {
    fn spread_q4(level: Level, together: usize, values: &[i8], quants: &mut [i8], starts: &mut [i32]) {
        for (index, values) in values.as_chunks::<BLOCK>().0.iter().enumerate() {
            let (low, high) = values.split_at(BLOCK / 2);
            let at = place_q4(together, index);
            quants[at..at + 16].copy_from_slice(low);
            quants[at + 16 * together..at + 16 * together + 16].copy_from_slice(high);
            let starts = &mut starts[index * 4..][..4];
            let sums = low.as_chunks::<4>().0.iter().zip(high.as_chunks::<4>().0);
            for (start, (low, high)) in starts.iter_mut().zip(sums) {
                *start = -8 * low.iter().chain(high).map(|&quant| i32::from(quant)).sum::<i32>();
            }
        }
    }
}
