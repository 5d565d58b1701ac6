//! Packed weights, read from where they are: burn-ndarray's own operations would copy a mapped file's words first.

use burn_ndarray::{NdArrayTensor, SharedArray};
use rayon::prelude::*;

use super::dot;
use crate::quant::{self, Packing};

/// From this many rows on, unpacking a band and multiplying as usual is faster. More than for float weights: those need not be unpacked, and
/// the general product then packs what was unpacked once more.
const MOST_ROWS: usize = 64;

/// Values below which handing a piece to another thread costs more than it saves.
const VALUES_PER_TASK: usize = 1 << 15;

/// A packed weight as burn-ndarray's tensors.
pub(in crate::ops) struct PackedRows {
    pub(in crate::ops) packing: Packing,
    pub(in crate::ops) columns: usize,
    /// `[rows, words]`
    pub(in crate::ops) words: NdArrayTensor,
    /// `[rows, scale words]`
    pub(in crate::ops) scales: Option<NdArrayTensor>,
}

/// Its rows as slices.
#[derive(Clone, Copy)]
struct Rows<'a> {
    packing: Packing,
    columns: usize,
    words: &'a [u32],
    scales: &'a [u16],
}

impl Rows<'_> {
    fn unpack(&self, row: usize, values: &mut [f32]) {
        let (words, scales) = (self.packing.words(self.columns), 2 * self.packing.scale_words(self.columns));
        quant::unpack(
            self.packing,
            &self.words[row * words..][..words],
            &self.scales[row * scales..][..self.packing.scales(self.columns)],
            values,
        );
    }
}

impl PackedRows {
    /// Run `f` on the rows as slices. `None` if they are not contiguous words of 32 bits.
    fn with<R>(&self, f: impl FnOnce(Rows) -> Option<R>) -> Option<R> {
        let NdArrayTensor::I32(words) = &self.words else { return None };
        let words = words.view();
        let words = bytemuck::cast_slice(words.as_slice()?);
        let rows = Rows { packing: self.packing, columns: self.columns, words, scales: &[] };
        match &self.scales {
            None => f(rows),
            Some(NdArrayTensor::I32(scales)) => {
                let scales = scales.view();
                f(Rows { scales: bytemuck::cast_slice(scales.as_slice()?), ..rows })
            }
            Some(_) => None,
        }
    }
}

/// `y = x W[g]ᵀ` for each group's rows of `x`; `None` for many rows or another type of `x`.
///
/// `x [rows, in]`, `weights [groups * out, in]`, `counts` rows of each group.
pub(in crate::ops) fn packed_row_product(
    x: &NdArrayTensor,
    weights: &PackedRows,
    counts: &[usize],
) -> Option<NdArrayTensor> {
    let NdArrayTensor::F32(x) = x else { return None };
    if counts.iter().any(|count| *count > MOST_ROWS) {
        return None;
    }
    let x = x.view();
    let x = x.as_slice()?;
    weights.with(|weights| {
        let input = weights.columns;
        let output = weights.words.len() / weights.packing.words(input) / counts.len();
        let dot = dot::best();
        let rows = counts.iter().sum();
        let mut y = vec![0.0_f32; rows * output];
        let mut first = 0;
        for (group, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let x = &x[first * input..(first + count) * input];
            let per_task = (VALUES_PER_TASK / input).max(1);
            // One output column after the other, so that each weight row is unpacked once for all rows of x.
            let mut columns = vec![0.0_f32; output * count];
            columns.par_chunks_mut(per_task * count).enumerate().for_each_init(
                || vec![0.0_f32; input],
                |values, (task, columns)| {
                    for (row, column) in columns.chunks_exact_mut(count).enumerate() {
                        weights.unpack(group * output + task * per_task + row, values);
                        column.iter_mut().zip(x.chunks_exact(input)).for_each(|(y, x)| *y = dot(x, values));
                    }
                },
            );
            let y = &mut y[first * output..(first + count) * output];
            if count == 1 {
                y.copy_from_slice(&columns);
            } else {
                for (column, values) in columns.chunks_exact(count).enumerate() {
                    values.iter().enumerate().for_each(|(row, value)| y[row * output + column] = *value);
                }
            }
            first += count;
        }
        Some(SharedArray::from_shape_vec(vec![rows, output], y).ok()?.into())
    })
}

/// Rows of a packed weight, in the order asked for. `None` if one is not there.
pub(in crate::ops) fn unpack_rows(weight: &PackedRows, rows: Vec<usize>) -> Option<NdArrayTensor> {
    weight.with(|weight| {
        let held = weight.words.len() / weight.packing.words(weight.columns);
        if rows.iter().any(|row| *row >= held) {
            return None;
        }
        let mut values = vec![0.0_f32; rows.len() * weight.columns];
        let per_task = (VALUES_PER_TASK / weight.columns).max(1);
        values.par_chunks_mut(per_task * weight.columns).zip(rows.par_chunks(per_task)).for_each(|(values, rows)| {
            values.chunks_exact_mut(weight.columns).zip(rows).for_each(|(values, &row)| weight.unpack(row, values));
        });
        Some(SharedArray::from_shape_vec(vec![rows.len(), weight.columns], values).ok()?.into())
    })
}
