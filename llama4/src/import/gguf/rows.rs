use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::blocks;
use super::file::GgufTensor;
use super::kind::{GgmlType, row_bytes};
use crate::import::blob::Blob;
use crate::quant::{BLOCK, Packing};

/// Rows of a quantised GGUF tensor.
#[derive(Debug, Clone)]
pub(in crate::import) struct BlockRows {
    kind: GgmlType,
    pub(in crate::import) rows: usize,
    pub(in crate::import) columns: usize,
    pub(in crate::import) file: Arc<Path>,
    blob: Blob,
    /// The bytes of these rows.
    pub(in crate::import) range: Range<usize>,
}

impl BlockRows {
    /// Rows from `first` on, if the tensor has them, each of whole blocks of a kind that is read.
    pub(in crate::import) fn new(tensor: &GgufTensor, first: usize, [rows, columns]: [usize; 2]) -> Option<Self> {
        let width = row_bytes(tensor.kind, columns).filter(|_| tensor.kind.is_read())?;
        let start = tensor.range.start.checked_add(first.checked_mul(width)?)?;
        let range = start..start.checked_add(rows.checked_mul(width)?)?;
        let (file, blob) = (tensor.file.clone(), tensor.blob.clone());
        (range.end <= tensor.range.end).then_some(Self { kind: tensor.kind, rows, columns, file, blob, range })
    }

    pub(in crate::import) fn slice_rows(&self, rows: Range<usize>) -> Self {
        let width = self.range.len() / self.rows;
        let range = self.range.start + rows.start * width..self.range.start + rows.end * width;
        Self { rows: rows.len(), range, ..self.clone() }
    }

    fn bytes(&self, rows: Range<usize>) -> &[u8] {
        let width = self.range.len() / self.rows;
        &self.blob[self.range.start + rows.start * width..self.range.start + rows.end * width]
    }

    pub(in crate::import) fn read(&self, rows: Range<usize>, columns: Range<usize>, out: &mut [f32], stride: usize) {
        // Whole blocks around the columns.
        let values = self.kind.block_values();
        let (first, last) = (columns.start / values, columns.end.div_ceil(values));
        let mut blocks = vec![0.0; (last - first) * values];
        for (row, out) in rows.zip(out.chunks_mut(stride)) {
            let bytes = &self.bytes(row..row + 1)[first * self.kind.block_bytes()..last * self.kind.block_bytes()];
            if blocks::dequantise(self.kind, bytes, &mut blocks).is_err() {
                unreachable!("kind and length were checked when this was made");
            }
            let start = columns.start - first * values;
            out[..columns.len()].copy_from_slice(&blocks[start..start + columns.len()]);
        }
    }

    pub(in crate::import) fn packing(&self) -> Option<Packing> {
        match self.kind {
            GgmlType::Q8_0 => Some(Packing::Q8),
            GgmlType::Q4_0 => Some(Packing::Q4),
            _ => None,
        }
    }

    pub(in crate::import) fn split(
        &self,
        rows: Range<usize>,
        words: &mut [u32],
        scales: &mut [u16],
        scale_stride: usize,
    ) {
        let (row_words, row_scales) = (words.len() / rows.len().max(1), self.columns / BLOCK);
        let parts = words.chunks_exact_mut(row_words).zip(scales.chunks_mut(scale_stride));
        for (row, (words, scales)) in rows.zip(parts) {
            if blocks::packed::split(self.kind, self.bytes(row..row + 1), &mut scales[..row_scales], words).is_err() {
                unreachable!("kind and length were checked when this was made");
            }
        }
    }
}
