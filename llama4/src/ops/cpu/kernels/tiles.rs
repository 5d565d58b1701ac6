//! Rows of activations as tiles, some rows side by side.

use std::ops::Range;

use super::activations::quantize_block;
use super::level::{Level, at_levels};
use super::lines::Lines;
use super::pool::Pool;
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
            let (starts, scales) = (bytemuck::cast_slice_mut(starts), bytemuck::cast_slice_mut(scales));
            match form {
                Form::Floats => floats(level, x, columns, bytemuck::cast_slice_mut(words)),
                Form::Bytes { offset } => bytes(level, x, columns, offset, words, starts, scales),
                Form::Pairs => pairs(level, x, columns, words, scales),
            }
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

at_levels! {
    fn bytes(level: Level, x: &[f32], columns: usize, offset: i32, tile: &mut [u32], starts: &mut [i32], scales: &mut [f32]) {
        let rows = x.len() / columns;
        for (row, x) in x.chunks_exact(columns).enumerate() {
            for (block, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
                let (quants, scale) = quantize_block(x);
                scales[block * rows + row] = scale;
                starts[block * rows + row] = -offset * quants.iter().map(|&quant| i32::from(quant)).sum::<i32>();
                let tile = &mut tile[block * (BLOCK / 4) * rows..][..BLOCK / 4 * rows];
                for (word, four) in tile[row..].iter_mut().step_by(rows).zip(quants.as_chunks::<4>().0) {
                    *word = u32::from_le_bytes(four.map(|quant| quant as u8));
                }
            }
        }
    }
}

at_levels! {
    /// For weights that come 256 times as large.
    fn pairs(level: Level, x: &[f32], columns: usize, tile: &mut [u32], scales: &mut [f32]) {
        let rows = x.len() / columns;
        for (row, x) in x.chunks_exact(columns).enumerate() {
            for (block, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
                let (quants, scale) = quantize_block(x);
                scales[block * rows + row] = scale * (1.0 / 256.0);
                let tile = &mut tile[block * (BLOCK / 2) * rows..][..BLOCK / 2 * rows];
                let pair = |low: i8, high: i8| u32::from(i16::from(low) as u16) | u32::from(i16::from(high) as u16) << 16;
                for (words, &[a, b, c, d]) in tile.chunks_exact_mut(2 * rows).zip(quants.as_chunks::<4>().0) {
                    words[row] = pair(a, c);
                    words[rows + row] = pair(b, d);
                }
            }
        }
    }
}
