//! Bands of a weight as panels, rows side by side: what a product with many rows of activations reads again and again.

use super::half::to_floats;
use super::level::{Level, at_levels};
use super::lines::Lines;
use super::matrix::Matrix;
use super::tile::{BlockPanel, FloatPanel, Form, width};
use super::transpose::{transpose, transpose_flipped};
use crate::quant::{BLOCK, Packing};

/// A panel, and the room that making one takes; kept by each thread.
#[derive(Debug, Default)]
pub(super) struct Panel {
    words: Lines,
    scales: Lines,
    room: Lines,
}

impl Panel {
    /// The weight's rows as floats, `[columns][width]`; rows that a panel has beyond the weight's are zero.
    pub(super) fn floats(&mut self, level: Level, weight: &Matrix) -> FloatPanel<'_> {
        let (rows, columns, width) = (weight.rows(), weight.columns(), width(level));
        let panel = self.words.words(columns * width);
        match weight.packing() {
            None => transpose(level, weight.words(), columns, rows, columns, panel, width),
            Some(_) => {
                let room = self.room.words(rows * columns);
                for (row, values) in room.chunks_exact_mut(columns).enumerate() {
                    weight.unpack(row, bytemuck::cast_slice_mut(values));
                }
                transpose(level, room, columns, rows, columns, panel, width);
            }
        }
        FloatPanel { values: bytemuck::cast_slice(panel), stride: width, depth: columns }
    }

    /// The weight's rows as quantised blocks.
    pub(super) fn blocks(&mut self, level: Level, form: Form, weight: &Matrix) -> BlockPanel<'_> {
        let (rows, columns, width) = (weight.rows(), weight.columns(), width(level));
        let blocks = columns / BLOCK;
        let row_words = weight.row_words();
        // Of a row, its scales as floats and then its words.
        let room = self.room.words(rows * blocks + row_words * width);
        let (scales, words) = room.split_at_mut(rows * blocks);
        for (row, scales) in scales.chunks_exact_mut(blocks).enumerate() {
            let halves = &weight.scales()[row * weight.row_scales()..][..blocks];
            to_floats(level, halves, bytemuck::cast_slice_mut(scales));
        }
        let scale_panel = self.scales.words(blocks * width);
        transpose(level, scales, blocks, rows, blocks, scale_panel, width);

        let panel = self.words.words(form.panel_words(columns) * width);
        match (form, weight.packing()) {
            (Form::Bytes { .. }, Some(Packing::Q4)) => {
                transpose(level, weight.words(), row_words, rows, row_words, words, width);
                spread_nibbles(level, words, width, panel);
            }
            // From signed bytes to unsigned ones that are 128 more.
            (Form::Bytes { .. }, _) => {
                transpose_flipped(level, weight.words(), row_words, [rows, row_words], 0x8080_8080, panel, width);
            }
            _ => transpose(level, weight.words(), row_words, rows, row_words, panel, width),
        }
        BlockPanel { words: panel, scales: bytemuck::cast_slice(scale_panel) }
    }
}

at_levels! {
    /// From four words a block with low and high nibbles to eight words of bytes: first the low ones of all four, then the high ones.
    fn spread_nibbles(level: Level, words: &[u32], width: usize, panel: &mut [u32]) {
        for (words, panel) in words.chunks_exact(4 * width).zip(panel.chunks_exact_mut(8 * width)) {
            let (low, high) = panel.split_at_mut(4 * width);
            for ((low, high), word) in low.iter_mut().zip(high).zip(words) {
                *low = word & 0x0f0f_0f0f;
                *high = word >> 4 & 0x0f0f_0f0f;
            }
        }
    }
}
