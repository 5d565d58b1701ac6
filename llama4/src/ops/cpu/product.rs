use burn_ndarray::{NdArrayTensor, SharedArray};

use super::floats;
use super::kernels::{self, Level, Matrix, Pool};

/// `y = x W[g]ᵀ` for each group's rows of `x`.
///
/// `x [rows, in]`, `weights [out, in]` or `[groups, out, in]`, `counts` rows of each group.
pub(in crate::ops) fn product(x: &NdArrayTensor, weights: &NdArrayTensor, counts: &[usize]) -> Option<NdArrayTensor> {
    let (x_width, input) = (width(x)?, width(weights)?);
    // Widths that do not belong together are for burn's own product to refuse.
    if x_width != input || input == 0 {
        return None;
    }
    floats!(x, weights);
    let rows: usize = counts.iter().sum();
    let weights = Matrix::floats(weights, input);
    let output = weights.rows() / counts.len();
    let y = kernels::product(Pool::global(), Level::current(), x, &weights, counts);
    Some(SharedArray::from_shape_vec(vec![rows, output], y).ok()?.into())
}

/// Length of the last axis.
fn width(tensor: &NdArrayTensor) -> Option<usize> {
    match tensor {
        NdArrayTensor::F32(storage) => storage.view().shape().last().copied(),
        _ => None,
    }
}
