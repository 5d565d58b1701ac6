//! Matrices become what a model or a file holds: floats of some type, or packed words. In bands of rows, by all cores.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::{DType, TensorData};
use half::{bf16, f16};
use rayon::prelude::*;

use super::matrix::Matrix;
use super::stored::StoredDtype;
use crate::quant::{self, NotRepresentable, PackedData, Packing, shared_bytes};

/// Rows and columns that are read at once where the file's order is the model's, and where it is turned: 32 to 128 KiB of `f32`, runs of the
/// file of some hundred bytes at least.
const IN_ORDER: (usize, usize) = (4, 8192);
const TURNED: (usize, usize) = (128, 64);

/// Why a matrix cannot be encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EncodeError {
    /// A value that the wanted type cannot hold.
    NotRepresentable,
    /// A type that is no float.
    Unsupported,
}

impl From<NotRepresentable> for EncodeError {
    fn from(_: NotRepresentable) -> Self {
        Self::NotRepresentable
    }
}

fn tile(matrix: &Matrix) -> (usize, usize) {
    if matrix.is_turned() { TURNED } else { IN_ORDER }
}

/// Pack rows of a matrix.
///
/// `words` and `scales` are those of these rows; a row of `scales` has `scale_stride` entries, of which the first are written.
pub(super) fn pack_rows(
    matrix: &Matrix,
    rows: Range<usize>,
    packing: Packing,
    words: &mut [u32],
    scales: &mut [u16],
    scale_stride: usize,
) -> Result<(), NotRepresentable> {
    let (height, width) = tile(matrix);
    let columns = matrix.columns();
    let (row_words, ok) = (packing.words(columns), AtomicBool::new(true));
    // A packing without scales still needs as many pieces of them as there are bands.
    let mut none = vec![[0_u16; 0]; rows.len().div_ceil(height)];
    let scale_bands: Vec<&mut [u16]> = match scale_stride {
        0 => none.iter_mut().map(|none| &mut none[..]).collect(),
        _ => scales.chunks_mut(height * scale_stride).collect(),
    };
    let bands = words.par_chunks_mut(height * row_words).zip(scale_bands).enumerate();
    bands.for_each_init(Vec::new, |values, (band, (words, scales))| {
        let first = rows.start + band * height;
        let band = first..(first + height).min(rows.end);
        if matrix.copy_packed(packing, band.clone(), words, scales, scale_stride) {
            return;
        }
        values.resize(height * width.min(columns), 0.0);
        for start in (0..columns).step_by(width) {
            let piece = start..(start + width).min(columns);
            matrix.read(band.clone(), piece.clone(), values, piece.len());
            for (row, values) in values.chunks_exact(piece.len()).take(band.len()).enumerate() {
                let words = &mut words[row * row_words + packing.words(start)..][..packing.words(piece.len())];
                let first = row * scale_stride + packing.scales(start);
                let scales = &mut scales[first..first + packing.scales(piece.len())];
                if quant::pack(packing, values, words, scales).is_err() {
                    ok.store(false, Ordering::Relaxed);
                }
            }
        }
    });
    if ok.into_inner() { Ok(()) } else { Err(NotRepresentable) }
}

/// Pack matrices, one below the other.
pub(super) fn pack(matrices: &[Matrix], packing: Packing) -> Result<PackedData, NotRepresentable> {
    let columns = matrices.first().map_or(0, Matrix::columns);
    let rows = matrices.iter().map(Matrix::rows).sum();
    let (row_words, stride) = (packing.words(columns), 2 * packing.scale_words(columns));
    let (mut words, mut scales) = (vec![0_u32; rows * row_words], vec![0_u16; rows * stride]);
    let mut first = 0;
    for matrix in matrices {
        let height = matrix.rows();
        let words = &mut words[first * row_words..][..height * row_words];
        pack_rows(matrix, 0..height, packing, words, &mut scales[first * stride..][..height * stride], stride)?;
        first += height;
    }
    Ok(PackedData { packing, rows, columns, words: shared_bytes(words), scales: shared_bytes(scales) })
}

/// Matrices, one below the other, as floats of type `dtype`.
///
/// Exact where `dtype` can hold the stored values, rounded to nearest even otherwise.
pub(super) fn floats(matrices: &[Matrix], dtype: DType, shape: Vec<usize>) -> Result<TensorData, EncodeError> {
    Ok(match dtype {
        DType::F32 | DType::Flex32 => TensorData::new(convert(matrices, StoredDtype::F32, |value| value), shape),
        DType::BF16 => TensorData::new(convert(matrices, StoredDtype::Bf16, bf16::from_f32), shape),
        DType::F64 => TensorData::new(convert(matrices, StoredDtype::Other("F64".into()), f64::from), shape),
        DType::F16 => {
            let overflows = AtomicBool::new(false);
            let values = convert(matrices, StoredDtype::F16, |value| {
                let half = f16::from_f32(value);
                if half.is_infinite() && value.is_finite() {
                    overflows.store(true, Ordering::Relaxed);
                }
                half
            });
            if overflows.into_inner() {
                return Err(EncodeError::NotRepresentable);
            }
            TensorData::new(values, shape)
        }
        _ => return Err(EncodeError::Unsupported),
    })
}

/// Rows of a matrix as a file's bytes.
pub(super) fn bytes(matrix: &Matrix, rows: Range<usize>, dtype: &StoredDtype) -> Vec<u8> {
    if let Some(bytes) = matrix.bytes_as(dtype) {
        let width = bytes.len() / matrix.rows();
        return bytes[rows.start * width..rows.end * width].to_vec();
    }
    let (height, _) = tile(matrix);
    in_lines(rows, height, matrix.columns(), dtype, |rows, values| {
        matrix.read(rows, 0..matrix.columns(), values, matrix.columns());
    })
}

/// Columns of a matrix as a file's bytes, one column after the other.
pub(super) fn turned_bytes(matrix: &Matrix, columns: Range<usize>, dtype: &StoredDtype) -> Vec<u8> {
    if let Some(bytes) = matrix.turned_bytes_as(dtype) {
        let width = bytes.len() / matrix.columns();
        return bytes[columns.start * width..columns.end * width].to_vec();
    }
    // Packed rows are read in whole blocks.
    in_lines(columns, crate::quant::BLOCK, matrix.rows(), dtype, |columns, values| {
        let (rows, width) = (matrix.rows(), columns.len());
        let mut block = vec![0.0; rows * width];
        matrix.read(0..rows, columns, &mut block, width);
        for (row, block) in block.chunks_exact(width).enumerate() {
            block.iter().enumerate().for_each(|(column, value)| values[column * rows + row] = *value);
        }
    })
}

/// Lines of `width` values, read some at a time by all cores, as bytes of `dtype`.
fn in_lines(
    lines: Range<usize>,
    at_once: usize,
    width: usize,
    dtype: &StoredDtype,
    read: impl Fn(Range<usize>, &mut [f32]) + Sync,
) -> Vec<u8> {
    let starts: Vec<usize> = lines.clone().step_by(at_once).collect();
    let parts = starts.par_iter().map(|&start| {
        let lines = start..(start + at_once).min(lines.end);
        let mut values = vec![0.0; lines.len() * width];
        read(lines, &mut values);
        match dtype {
            StoredDtype::Bf16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
            StoredDtype::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>(),
        }
    });
    parts.collect::<Vec<_>>().concat()
}

fn convert<T: bytemuck::Pod + Default + Send>(
    matrices: &[Matrix],
    same: StoredDtype,
    convert: impl Fn(f32) -> T + Sync,
) -> Vec<T> {
    let mut values = vec![T::default(); matrices.iter().map(|matrix| matrix.rows() * matrix.columns()).sum()];
    let mut rest = values.as_mut_slice();
    for matrix in matrices {
        let columns = matrix.columns();
        let (here, after) = rest.split_at_mut(matrix.rows() * columns);
        rest = after;
        // Files are little-endian, as is every machine that burn's backends run on.
        if let Some(bytes) = matrix.bytes_as(&same).filter(|_| cfg!(target_endian = "little")) {
            bytemuck::cast_slice_mut(here).copy_from_slice(bytes);
            continue;
        }
        let (height, width) = tile(matrix);
        here.par_chunks_mut((height * columns).max(1)).enumerate().for_each_init(Vec::new, |buffer, (band, here)| {
            let rows = band * height..(band * height + here.len() / columns);
            buffer.resize(height * width.min(columns), 0.0);
            for start in (0..columns).step_by(width) {
                let piece = start..(start + width).min(columns);
                matrix.read(rows.clone(), piece.clone(), buffer, piece.len());
                for (here, values) in here.chunks_exact_mut(columns).zip(buffer.chunks_exact(piece.len())) {
                    let here = &mut here[piece.clone()];
                    here.iter_mut().zip(values).for_each(|(here, &value)| *here = convert(value));
                }
            }
        });
    }
    values
}
