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
    /// The rows. `None` if they are not contiguous words of 32 bits.
    pub(super) fn matrix(&self) -> Option<Matrix<'_>> {
        let scales = match &self.scales {
            None => &[][..],
            Some(scales) => bytemuck::cast_slice(words(scales)?),
        };
        Some(Matrix::packed(self.packing, self.columns, words(&self.words)?, scales))
    }
}

fn words(tensor: &NdArrayTensor) -> Option<&[u32]> {
    let NdArrayTensor::I32(storage) = tensor else { return None };
    storage.view().to_slice().map(bytemuck::cast_slice)
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
    let (rows, weights) = (counts.iter().sum(), weights.matrix()?);
    let output = weights.rows() / counts.len();
    let y = kernels::product(Pool::global(), Level::current(), x, &weights, counts);
    Some(SharedArray::from_shape_vec(vec![rows, output], y).ok()?.into())
}

/// Rows of a packed weight, in the order asked for. `None` if one is not there.
pub(in crate::ops) fn unpack_rows(weight: &PackedRows, rows: Vec<usize>) -> Option<NdArrayTensor> {
    let weight = weight.matrix()?;
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
}
