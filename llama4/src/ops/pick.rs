use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};

use super::dispatch;

/// Rows of `x`, along its first axis.
///
/// burn's operation, but never fused with its neighbours: in burn 0.20 fusion gets a look-up wrong whose result has another shape than what
/// it looks up in.
///
/// # Shapes
/// - x: `[rows, …]`
/// - ids: `[count]`
/// - output: `[count, …]`
pub fn select_rows<B: Backend, const D: usize>(x: Tensor<B, D>, ids: Tensor<B, 1, Int>) -> Tensor<B, D> {
    match dispatch::select_rows(&x, &ids) {
        Some(rows) => rows,
        None => x.select(0, ids),
    }
}

/// [`select_rows`] of integers, the words of a packed weight.
pub(super) fn select_words<B: Backend>(x: Tensor<B, 2, Int>, ids: Tensor<B, 1, Int>) -> Tensor<B, 2, Int> {
    match dispatch::select_words(&x, &ids) {
        Some(rows) => rows,
        None => x.select(0, ids),
    }
}

/// Some columns of each row: `y[r, c] = x[r, ids[r, c]]`. Never fused, as [`select_rows`].
///
/// # Shapes
/// - x: `[rows, columns]`
/// - ids: `[rows, count]`
/// - output: `[rows, count]`
pub fn gather_columns<B: Backend>(x: Tensor<B, 2>, ids: Tensor<B, 2, Int>) -> Tensor<B, 2> {
    match dispatch::gather_columns(&x, &ids) {
        Some(columns) => columns,
        None => x.gather(1, ids),
    }
}
