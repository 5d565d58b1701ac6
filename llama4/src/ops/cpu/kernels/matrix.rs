use std::ops::Range;

use crate::quant::{self, Packing};

/// Rows of a weight where they are, `[rows, columns]`.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops::cpu) struct Matrix<'a> {
    /// How values are packed; `None` for `f32`, one to a word.
    packing: Option<Packing>,
    columns: usize,
    /// Words of a row, one row after the other.
    words: &'a [u32],
    /// Scales of a row, likewise; where their number is odd, one more that is not used.
    scales: &'a [u16],
}

impl<'a> Matrix<'a> {
    /// Rows of `f32`.
    pub(in crate::ops::cpu) fn floats(values: &'a [f32], columns: usize) -> Self {
        Self { packing: None, columns, words: bytemuck::cast_slice(values), scales: &[] }.checked()
    }

    /// Rows of packed values.
    pub(in crate::ops::cpu) fn packed(packing: Packing, columns: usize, words: &'a [u32], scales: &'a [u16]) -> Self {
        Self { packing: Some(packing), columns, words, scales }.checked()
    }

    /// The kernels read with pointers what these lengths promise.
    fn checked(self) -> Self {
        assert!(self.columns > 0 && self.packing.is_none_or(|packing| packing.fits(self.columns)), "whole blocks");
        assert!(self.words.len().is_multiple_of(self.row_words()), "whole rows of words");
        assert_eq!(self.scales.len(), self.rows() * self.row_scales(), "scales of every row");
        self
    }

    pub(in crate::ops::cpu) fn packing(&self) -> Option<Packing> {
        self.packing
    }

    /// Values of a row.
    pub(in crate::ops::cpu) fn columns(&self) -> usize {
        self.columns
    }

    pub(in crate::ops::cpu) fn rows(&self) -> usize {
        self.words.len() / self.row_words()
    }

    /// Words from one row to the next.
    pub(super) fn row_words(&self) -> usize {
        self.packing.map_or(self.columns, |packing| packing.words(self.columns))
    }

    /// Scales from one row to the next.
    pub(super) fn row_scales(&self) -> usize {
        self.packing.map_or(0, |packing| 2 * packing.scale_words(self.columns))
    }

    /// Bytes of a row, scales and all.
    pub(super) fn row_bytes(&self) -> usize {
        4 * self.row_words() + 2 * self.row_scales()
    }

    pub(super) fn words(&self) -> &'a [u32] {
        self.words
    }

    pub(super) fn scales(&self) -> &'a [u16] {
        self.scales
    }

    /// Consecutive rows of it.
    pub(in crate::ops::cpu) fn band(&self, rows: Range<usize>) -> Self {
        let (words, scales) = (self.row_words(), self.row_scales());
        Self {
            words: &self.words[rows.start * words..rows.end * words],
            scales: &self.scales[rows.start * scales..rows.end * scales],
            ..*self
        }
    }

    /// One row as floats.
    pub(in crate::ops::cpu) fn unpack(&self, row: usize, values: &mut [f32]) {
        let (words, scales) = (self.row_words(), self.row_scales());
        let words = &self.words[row * words..][..words];
        match self.packing {
            None => values.copy_from_slice(bytemuck::cast_slice(words)),
            Some(packing) => {
                let scales = &self.scales[row * scales..][..packing.scales(self.columns)];
                quant::unpack(packing, words, scales, values);
            }
        }
    }
}
