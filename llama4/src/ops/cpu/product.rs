use burn_ndarray::NdArrayTensor;

use super::kernels::{self, Level, Matrix, Pool};
use super::{floats, tensor};

/// `y = x W[g]ᵀ` for each group's rows of `x`.
///
/// `x [rows, in]`, `weights [out, in]` or `[groups, out, in]`, `counts` rows of each group.
pub(in crate::ops) fn product(x: &NdArrayTensor, weights: &NdArrayTensor, counts: &[usize]) -> Option<NdArrayTensor> {
    floats!(x, weights);
    let rows: usize = counts.iter().sum();
    let input = x.len().checked_div(rows).filter(|input| *input > 0)?;
    let weights = Matrix::floats(weights, input);
    let output = weights.rows() / counts.len();
    tensor(vec![rows, output], |y| kernels::product(Pool::global(), Level::current(), x, &weights, counts, y))
}
