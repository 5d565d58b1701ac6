//! Rows of activations as tiles, some rows side by side.

use std::cell::RefCell;
use std::ops::Range;

use super::level::{Level, at_levels};
use super::lines::Lines;
use super::pool::Pool;
use super::rounding::round;
use super::share::Share;
use super::tile::{BlockTile, Form, most};
use crate::quant::BLOCK;

/// Activations laid out for [`float_tile`](super::tile::float_tile) or [`block_tile`](super::tile::block_tile).
#[derive(Debug, Default)]
pub(super) struct Tiles {
    columns: usize,
    words: Lines,
    starts: Lines,
    scales: Lines,
}

/// Cut rows into tiles of nearly the same number of rows.
pub(super) fn cut(level: Level, form: Form, rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let count = rows.len().div_ceil(most(level, form));
    (0..count).map(move |tile| rows.start + rows.len() * tile / count..rows.start + rows.len() * (tile + 1) / count)
}

/// A tile's rows as bytes, before they are spread.
#[derive(Debug, Default)]
struct Room {
    quants: Vec<i8>,
    scales: Vec<f32>,
}

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

impl Tiles {
    /// Lay out the rows of `x [rows, columns]`, tile by tile: `tiles` are ranges of rows, which do not overlap.
    pub(super) fn fill(
        &mut self,
        pool: &Pool,
        level: Level,
        form: Form,
        x: &[f32],
        columns: usize,
        tiles: &[Range<usize>],
    ) {
        self.columns = columns;
        let rows = x.len() / columns;
        let words = Share::new(self.words.words(rows * form.words(columns)));
        let blocks = if form == Form::Floats { 0 } else { columns / BLOCK };
        let starts = Share::new(self.starts.words(rows * blocks));
        let scales = Share::new(self.scales.words(rows * blocks));
        assert!(tiles.iter().zip(tiles.iter().skip(1)).all(|(tile, next)| tile.end <= next.start), "tiles in order");
        pool.run(tiles.len(), |tile| {
            let Range { start, end } = tiles[tile];
            let x = &x[start * columns..end * columns];
            let (first, count) = (start * form.words(columns), (end - start) * form.words(columns));
            // SAFETY: each tile has places of its own, since tiles do not overlap.
            let (words, starts, scales) = unsafe {
                let blocks = (start * blocks, (end - start) * blocks);
                (words.part(first, count), starts.part(blocks.0, blocks.1), scales.part(blocks.0, blocks.1))
            };
            if form == Form::Floats {
                floats(level, x, columns, bytemuck::cast_slice_mut(words));
                return;
            }
            ROOM.with_borrow_mut(|room| {
                room.quants.resize(x.len(), 0);
                room.scales.resize(x.len() / BLOCK, 0.0);
                round(level, x, &mut room.quants, &mut room.scales);
                let factor = match form {
                    Form::Bytes { offset } => {
                        bytes(level, &room.quants, columns, offset, words, bytemuck::cast_slice_mut(starts));
                        1.0
                    }
                    _ => {
                        pairs(level, &room.quants, columns, words);
                        1.0 / 256.0
                    }
                };
                let rows = end - start;
                for (row, own) in room.scales.chunks_exact(blocks).enumerate() {
                    let places = bytemuck::cast_slice_mut::<u32, f32>(scales)[row..].iter_mut().step_by(rows);
                    places.zip(own).for_each(|(place, scale)| *place = scale * factor);
                }
            });
        });
    }

    /// A tile of floats, `[columns][rows]`.
    pub(super) fn floats(&self, tile: &Range<usize>) -> &[f32] {
        let words = &self.words.held()[tile.start * self.columns..tile.end * self.columns];
        bytemuck::cast_slice(words)
    }

    /// A tile of quantised blocks.
    pub(super) fn blocks(&self, form: Form, tile: &Range<usize>) -> BlockTile<'_> {
        let (words, blocks) = (form.words(self.columns), self.columns / BLOCK);
        BlockTile {
            words: &self.words.held()[tile.start * words..tile.end * words],
            starts: bytemuck::cast_slice(&self.starts.held()[tile.start * blocks..tile.end * blocks]),
            scales: bytemuck::cast_slice(&self.scales.held()[tile.start * blocks..tile.end * blocks]),
        }
    }
}

at_levels! {
    fn floats(level: Level, x: &[f32], columns: usize, tile: &mut [f32]) {
        let rows = x.len() / columns;
        for (row, x) in x.chunks_exact(columns).enumerate() {
            for (value, x) in tile[row..].iter_mut().step_by(rows).zip(x) {
                *value = *x;
            }
        }
    }
}

/// Rows of bytes as words, column by column, and their sums.
fn bytes(level: Level, x: &[i8], columns: usize, offset: i32, tile: &mut [u32], starts: &mut [i32]) {
    spread_bytes(level, x, columns, tile);
    sum_blocks(level, x, columns, offset, starts);
}

at_levels! {
    fn spread_bytes(level: Level, x: &[i8], columns: usize, tile: &mut [u32]) {
        let rows = x.len() / columns;
        for (row, x) in x.chunks_exact(columns).enumerate() {
            for (word, four) in tile[row..].iter_mut().step_by(rows).zip(x.as_chunks::<4>().0) {
                *word = u32::from_le_bytes(four.map(|quant| quant as u8));
            }
        }
    }
}

at_levels! {
    fn sum_blocks(level: Level, x: &[i8], columns: usize, offset: i32, starts: &mut [i32]) {
        let rows = x.len() / columns;
        for (row, x) in x.chunks_exact(columns).enumerate() {
            for (start, block) in starts[row..].iter_mut().step_by(rows).zip(x.as_chunks::<BLOCK>().0) {
                *start = -offset * block.iter().map(|&quant| i32::from(quant)).sum::<i32>();
            }
        }
    }
}

at_levels! {
    /// For weights that come 256 times as large.
    fn pairs(level: Level, x: &[i8], columns: usize, tile: &mut [u32]) {
        let rows = x.len() / columns;
        for (row, x) in x.chunks_exact(columns).enumerate() {
            for (words, four) in tile.chunks_exact_mut(2 * rows).zip(x.as_chunks::<4>().0) {
                let four = u32::from_le_bytes(four.map(|quant| quant as u8));
                words[row] = pair(four << 8, four << 24);
                words[rows + row] = pair(four, four << 16);
            }
        }
    }
}

/// The highest bytes of two words as 16-bit numbers.
#[inline(always)]
fn pair(high: u32, low: u32) -> u32 {
    let signed = |word: u32| (word.cast_signed() >> 24).cast_unsigned();
    signed(high) << 16 | signed(low) & 0xffff
}
