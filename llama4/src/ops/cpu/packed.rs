//! Packed weights, read from where they are: burn-ndarray's own operations would copy a mapped file's words first.

use burn_ndarray::{NdArrayTensor, SharedArray};
use rayon::prelude::*;

use super::floats;
use super::kernels::{self, Level, Matrix, Pool};
use crate::quant::Packing;

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

impl PackedRows {
    /// Run `f` on the rows. `None` if they are not contiguous words of 32 bits.
    fn with<R>(&self, f: impl FnOnce(Matrix) -> Option<R>) -> Option<R> {
        let NdArrayTensor::I32(words) = &self.words else { return None };
        let words = words.view();
        let words = bytemuck::cast_slice(words.as_slice()?);
        match &self.scales {
            None => f(Matrix::packed(self.packing, self.columns, words, &[])),
            Some(NdArrayTensor::I32(scales)) => {
                let scales = scales.view();
                f(Matrix::packed(self.packing, self.columns, words, bytemuck::cast_slice(scales.as_slice()?)))
            }
            Some(_) => None,
        }
    }
}

/// `y = x W[g]ᵀ` for each group's rows of `x`.
///
/// `x [rows, in]`, `weights [groups * out, in]`, `counts` rows of each group.
pub(in crate::ops) fn packed_product(
    x: &NdArrayTensor,
    weights: &PackedRows,
    counts: &[usize],
) -> Option<NdArrayTensor> {
    floats!(x);
    let rows = counts.iter().sum();
    weights.with(|weights| {
        let output = weights.rows() / counts.len();
        let y = kernels::product(Pool::global(), Level::current(), x, &weights, counts);
        Some(SharedArray::from_shape_vec(vec![rows, output], y).ok()?.into())
    })
}

/// Rows of a packed weight, in the order asked for. `None` if one is not there.
pub(in crate::ops) fn unpack_rows(weight: &PackedRows, rows: Vec<usize>) -> Option<NdArrayTensor> {
    weight.with(|weight| {
        let columns = weight.columns();
        if rows.iter().any(|row| *row >= weight.rows()) {
            return None;
        }
        let mut values = vec![0.0_f32; rows.len() * columns];
        let per_task = (VALUES_PER_TASK / columns).max(1);
        values.par_chunks_mut(per_task * columns).zip(rows.par_chunks(per_task)).for_each(|(values, rows)| {
            values.chunks_exact_mut(columns).zip(rows).for_each(|(values, &row)| weight.unpack(row, values));
        });
        Some(SharedArray::from_shape_vec(vec![rows.len(), columns], values).ok()?.into())
    })
}
