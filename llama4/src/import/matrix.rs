//! A parameter's matrices as files hold them, and how any part of one is read as `f32`.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use half::f16;

use super::blob::Blob;
use super::gguf::rows::BlockRows;
use super::stored::{StoredDtype, StoredTensor};
use crate::quant::{self, BLOCK, Packing};

/// Side of the squares in which matrices are turned: one of them and the lines it is read from and written to fit the first cache.
const SQUARE: usize = 32;

/// One matrix of a parameter, `[out, in]` as in the model, wherever its values are and in whatever order.
///
/// Everything is checked when one is made, so that reading cannot fail.
#[derive(Debug, Clone)]
pub(super) enum Matrix {
    /// Floats of one stored tensor.
    Floats(Strided),
    /// 8-bit floats, each row with a scale: `value · scale`.
    Scaled {
        /// The values.
        values: Strided,
        /// One column, a scale for each row.
        scales: Strided,
    },
    /// Rows in this library's own packing.
    Packed(PackedPart),
    /// Rows of GGUF's blocks.
    Blocks(BlockRows),
    /// Matrices of the same width, one below the other.
    Below(Vec<Matrix>),
    /// Matrices of the same height, side by side.
    Beside(Vec<Matrix>),
}

/// A matrix within a stored tensor: value (row, column) is element `first + row · row_step + column · column_step`.
#[derive(Debug, Clone)]
pub(super) struct Strided {
    tensor: Arc<StoredTensor>,
    first: usize,
    rows: usize,
    columns: usize,
    row_step: usize,
    column_step: usize,
}

/// Part of a file.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub(super) blob: Blob,
    pub(super) range: Range<usize>,
}

/// Packed rows as a file holds them.
#[derive(Debug, Clone)]
pub(super) struct PackedPart {
    pub(super) packing: Packing,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// The tensor of the words, and the first byte of these rows in it.
    pub(super) words: (Arc<StoredTensor>, usize),
    /// The same of the scales, which a file holds without padding.
    pub(super) scales: Option<(Arc<StoredTensor>, usize)>,
}

impl Strided {
    /// The view, if all of it lies within the tensor and the tensor's elements are floats. Steps may be zero.
    pub(super) fn new(
        tensor: &Arc<StoredTensor>,
        first: usize,
        [rows, columns]: [usize; 2],
        [row_step, column_step]: [usize; 2],
    ) -> Option<Self> {
        let width = tensor.dtype.float_bytes()?;
        let last = (rows.checked_sub(1)?.checked_mul(row_step)?)
            .checked_add(columns.checked_sub(1)?.checked_mul(column_step)?)?
            .checked_add(first)?;
        let view = Self { tensor: tensor.clone(), first, rows, columns, row_step, column_step };
        (last < tensor.range.len() / width).then_some(view)
    }

    /// Whether neighbours in a column, not in a row, are neighbours in the file.
    fn is_turned(&self) -> bool {
        self.column_step != 1 && self.columns > 1
    }

    fn read(&self, rows: Range<usize>, columns: Range<usize>, out: &mut [f32], stride: usize) {
        match self.tensor.dtype {
            StoredDtype::F32 => self.read_as(f32::from_le_bytes, rows, columns, out, stride),
            StoredDtype::Bf16 => {
                let decode = |bytes| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16);
                self.read_as(decode, rows, columns, out, stride);
            }
            StoredDtype::F16 => self.read_as(|bytes| f16::from_le_bytes(bytes).to_f32(), rows, columns, out, stride),
            StoredDtype::F8E4m3 => {
                self.read_as(|[byte]: [u8; 1]| E4M3[usize::from(byte)], rows, columns, out, stride);
            }
            StoredDtype::Packed(_) | StoredDtype::Blocks { .. } | StoredDtype::Other(_) => {
                unreachable!("a view has elements that are floats")
            }
        }
    }

    fn read_as<const N: usize>(
        &self,
        decode: impl Fn([u8; N]) -> f32,
        rows: Range<usize>,
        columns: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) {
        let (values, _) = self.tensor.bytes().as_chunks::<N>();
        if !self.is_turned() {
            for (row, out) in rows.zip(out.chunks_mut(stride)) {
                let start = self.first + row * self.row_step + columns.start;
                for (out, &value) in out.iter_mut().zip(&values[start..start + columns.len()]) {
                    *out = decode(value);
                }
            }
            return;
        }
        // Square by square, each read along the file first: in a matrix whose width is a power of two a whole column falls into
        // the same few cache lines.
        let mut square = [[0.0_f32; SQUARE]; SQUARE];
        for column_tile in (0..columns.len()).step_by(SQUARE) {
            let across = SQUARE.min(columns.len() - column_tile);
            for row_tile in (0..rows.len()).step_by(SQUARE) {
                let down = SQUARE.min(rows.len() - row_tile);
                let corner = self.first
                    + (rows.start + row_tile) * self.row_step
                    + (columns.start + column_tile) * self.column_step;
                for (column, line) in square[..across].iter_mut().enumerate() {
                    let start = corner + column * self.column_step;
                    if self.row_step == 1 {
                        for (value, &stored) in line.iter_mut().zip(&values[start..start + down]) {
                            *value = decode(stored);
                        }
                    } else {
                        for (row, value) in line[..down].iter_mut().enumerate() {
                            *value = decode(values[start + row * self.row_step]);
                        }
                    }
                }
                for row in 0..down {
                    let start = (row_tile + row) * stride + column_tile;
                    for (out, line) in out[start..start + across].iter_mut().zip(&square) {
                        *out = line[row];
                    }
                }
            }
        }
    }
}

impl PackedPart {
    /// The bytes of consecutive rows: words, and scales.
    pub(super) fn bytes(&self, rows: Range<usize>) -> (&[u8], &[u8]) {
        let words = self.packing.words(self.columns) * 4;
        let scales = self.packing.scales(self.columns) * 2;
        let part = |(tensor, first): &'_ (Arc<StoredTensor>, usize), width: usize| -> Range<usize> {
            let start = tensor.range.start + first;
            start + rows.start * width..start + rows.end * width
        };
        let held = match &self.scales {
            Some(held) => &held.0.blob[part(held, scales)],
            None => &[],
        };
        (&self.words.0.blob[part(&self.words, words)], held)
    }

    fn read(&self, rows: Range<usize>, columns: Range<usize>, out: &mut [f32], stride: usize) {
        let (mut words, mut scales) = (Vec::new(), Vec::new());
        for (row, out) in rows.zip(out.chunks_mut(stride)) {
            let (word_bytes, scale_bytes) = self.bytes(row..row + 1);
            let first = self.packing.words(columns.start);
            let count = self.packing.words(columns.len());
            words.clear();
            words.extend(word_bytes.as_chunks().0[first..first + count].iter().map(|&word| u32::from_le_bytes(word)));
            scales.clear();
            if self.packing.has_scales() {
                let first = columns.start / BLOCK;
                let blocks = &scale_bytes.as_chunks().0[first..first + columns.len() / BLOCK];
                scales.extend(blocks.iter().map(|&scale| u16::from_le_bytes(scale)));
            }
            quant::unpack(self.packing, &words, &scales, &mut out[..columns.len()]);
        }
    }
}

impl Matrix {
    /// Height, the number of outputs.
    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Floats(view) | Self::Scaled { values: view, .. } => view.rows,
            Self::Packed(part) => part.rows,
            Self::Blocks(blocks) => blocks.rows,
            Self::Below(parts) => parts.iter().map(Self::rows).sum(),
            Self::Beside(parts) => parts.first().map_or(0, Self::rows),
        }
    }

    /// Width, the number of inputs.
    pub(super) fn columns(&self) -> usize {
        match self {
            Self::Floats(view) | Self::Scaled { values: view, .. } => view.columns,
            Self::Packed(part) => part.columns,
            Self::Blocks(blocks) => blocks.columns,
            Self::Below(parts) => parts.first().map_or(0, Self::columns),
            Self::Beside(parts) => parts.iter().map(Self::columns).sum(),
        }
    }

    /// Read a rectangle, row after row, each `stride` values after the last. Of packed rows the columns must be whole blocks.
    pub(super) fn read(&self, rows: Range<usize>, columns: Range<usize>, out: &mut [f32], stride: usize) {
        match self {
            Self::Floats(view) => view.read(rows, columns, out, stride),
            Self::Scaled { values, scales } => {
                values.read(rows.clone(), columns.clone(), out, stride);
                for (row, out) in rows.zip(out.chunks_mut(stride)) {
                    let mut scale = [0.0];
                    scales.read(row..row + 1, 0..1, &mut scale, 1);
                    out[..columns.len()].iter_mut().for_each(|value| *value *= scale[0]);
                }
            }
            Self::Packed(part) => part.read(rows, columns, out, stride),
            Self::Blocks(blocks) => blocks.read(rows, columns, out, stride),
            Self::Below(parts) => {
                for (part, within, at) in overlaps(parts.iter().map(Self::rows), &rows) {
                    parts[part].read(within, columns.clone(), &mut out[at * stride..], stride);
                }
            }
            Self::Beside(parts) => {
                for (part, within, at) in overlaps(parts.iter().map(Self::columns), &columns) {
                    parts[part].read(rows.clone(), within, &mut out[at..], stride);
                }
            }
        }
    }

    /// Copy rows that are packed as wanted already, without loss. `false`, and nothing done, where they are not.
    ///
    /// Each row of `scales` has `scale_stride` entries, of which the first are written.
    pub(super) fn copy_packed(
        &self,
        packing: Packing,
        rows: Range<usize>,
        words: &mut [u32],
        scales: &mut [u16],
        scale_stride: usize,
    ) -> bool {
        match self {
            Self::Packed(part) if part.packing == packing => {
                let (word_bytes, scale_bytes) = part.bytes(rows);
                for (word, &bytes) in words.iter_mut().zip(word_bytes.as_chunks().0) {
                    *word = u32::from_le_bytes(bytes);
                }
                let held = packing.scales(part.columns);
                if held > 0 {
                    let rows = scales.chunks_mut(scale_stride).zip(scale_bytes.as_chunks().0.chunks(held));
                    for (scales, bytes) in rows {
                        scales.iter_mut().zip(bytes).for_each(|(scale, &bytes)| *scale = u16::from_le_bytes(bytes));
                    }
                }
                true
            }
            Self::Blocks(blocks) if blocks.packing() == Some(packing) => {
                let words = &mut words[..rows.len() * packing.words(blocks.columns)];
                blocks.split(rows, words, scales, scale_stride);
                true
            }
            Self::Below(parts) if parts.iter().all(|part| part.is_packed_as(packing)) => {
                let width = packing.words(self.columns());
                for (part, within, at) in overlaps(parts.iter().map(Self::rows), &rows) {
                    let scales = &mut scales[at * scale_stride..];
                    parts[part].copy_packed(packing, within, &mut words[at * width..], scales, scale_stride);
                }
                true
            }
            _ => false,
        }
    }

    /// Whether [`copy_packed`](Self::copy_packed) works.
    pub(super) fn is_packed_as(&self, packing: Packing) -> bool {
        self.native_packing() == Some(packing)
    }

    /// The packing that these rows have in the file, if they have one.
    pub(super) fn native_packing(&self) -> Option<Packing> {
        match self {
            Self::Packed(part) => Some(part.packing),
            Self::Blocks(blocks) => blocks.packing(),
            Self::Below(parts) => {
                let first = parts.first()?.native_packing()?;
                parts.iter().all(|part| part.native_packing() == Some(first)).then_some(first)
            }
            _ => None,
        }
    }

    /// Whether reading goes down the columns in the file.
    pub(super) fn is_turned(&self) -> bool {
        match self {
            Self::Floats(view) | Self::Scaled { values: view, .. } => view.is_turned(),
            Self::Packed(_) | Self::Blocks(_) => false,
            Self::Below(parts) | Self::Beside(parts) => parts.iter().any(Self::is_turned),
        }
    }

    /// Where the words and the scales are that are packed as wanted; 16-bit floats in the model's order are so as they are.
    pub(super) fn packed_spans(&self, packing: Packing) -> Option<(Span, Option<Span>)> {
        let span = |(tensor, first): &(Arc<StoredTensor>, usize), bytes: usize| {
            let start = tensor.range.start + first;
            Span { blob: tensor.blob.clone(), range: start..start + bytes }
        };
        match self {
            Self::Packed(part) if part.packing == packing => {
                let words = span(&part.words, 4 * part.rows * packing.words(part.columns));
                let scales = part.scales.as_ref().map(|held| span(held, 2 * part.rows * packing.scales(part.columns)));
                Some((words, scales))
            }
            Self::Floats(view) if !packing.has_scales() => {
                let stored = if packing == Packing::F16 { StoredDtype::F16 } else { StoredDtype::Bf16 };
                let bytes = self.bytes_as(&stored)?;
                Some((span(&(view.tensor.clone(), 2 * view.first), bytes.len()), None))
            }
            _ => None,
        }
    }

    /// The file's bytes of the whole matrix, where it is floats of type `dtype` and each column is in order.
    pub(super) fn turned_bytes_as(&self, dtype: &StoredDtype) -> Option<&[u8]> {
        let Self::Floats(view) = self else { return None };
        let width = view.tensor.dtype.float_bytes()?;
        let in_order = view.row_step == 1 && view.column_step == view.rows;
        (view.tensor.dtype == *dtype && in_order)
            .then(|| &view.tensor.bytes()[view.first * width..(view.first + view.rows * view.columns) * width])
    }

    /// The parts of files that reading the matrix touches, from the first byte to the last.
    pub(super) fn extents(&self) -> Vec<(Arc<Path>, Range<usize>)> {
        let whole = |tensor: &StoredTensor, first: usize, bytes: usize| {
            let start = tensor.range.start + first;
            (tensor.file.clone(), start..start + bytes)
        };
        match self {
            Self::Floats(view) | Self::Scaled { values: view, .. } => {
                let width = view.tensor.dtype.float_bytes().unwrap_or(1);
                let values = (view.rows - 1) * view.row_step + (view.columns - 1) * view.column_step + 1;
                vec![whole(&view.tensor, view.first * width, values * width)]
            }
            Self::Packed(part) => {
                let (words, first) = &part.words;
                let mut extents = vec![whole(words, *first, 4 * part.rows * part.packing.words(part.columns))];
                if let Some((scales, first)) = &part.scales {
                    extents.push(whole(scales, *first, 2 * part.rows * part.packing.scales(part.columns)));
                }
                extents
            }
            Self::Blocks(blocks) => vec![(blocks.file.clone(), blocks.range.clone())],
            Self::Below(parts) | Self::Beside(parts) => parts.iter().flat_map(Self::extents).collect(),
        }
    }

    /// The file's bytes of the whole matrix, where it is floats of type `dtype` in the model's order.
    pub(super) fn bytes_as(&self, dtype: &StoredDtype) -> Option<&[u8]> {
        let Self::Floats(view) = self else { return None };
        let width = view.tensor.dtype.float_bytes()?;
        let in_order = !view.is_turned() && (view.row_step == view.columns || view.rows == 1);
        (view.tensor.dtype == *dtype && in_order)
            .then(|| &view.tensor.bytes()[view.first * width..(view.first + view.rows * view.columns) * width])
    }
}

/// Which parts, of these lengths one after the other, a range touches: the part, the range within it, and where that begins in the
/// range.
fn overlaps(
    lengths: impl Iterator<Item = usize>,
    range: &Range<usize>,
) -> impl Iterator<Item = (usize, Range<usize>, usize)> {
    let mut first = 0;
    lengths.enumerate().filter_map(move |(part, length)| {
        let (start, end) = (range.start.max(first), range.end.min(first + length));
        let within = (start < end).then(|| (part, start - first..end - first, start - range.start));
        first += length;
        within
    })
}

/// Every value of 8-bit floats with 4 bits of exponent: no infinities, the two codes with all bits set are not numbers.
static E4M3: [f32; 256] = e4m3();

const fn e4m3() -> [f32; 256] {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let (exponent, fraction) = ((code >> 3) & 15, code & 7);
        let magnitude = if exponent == 15 && fraction == 7 {
            f32::NAN
        } else if exponent == 0 {
            fraction as f32 / 512.0
        } else {
            // (8 + fraction) · 2^(exponent - 10)
            (8 + fraction) as f32 * f32::from_bits((exponent as u32 + 117) << 23)
        };
        values[code] = if code & 128 == 0 { magnitude } else { -magnitude };
        code += 1;
    }
    values
}
