use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::{dispatch, linear_plain};

/// A different weight for each group of rows: `y = x W[g]ᵀ` for the rows of group `g`, computed in the type of `x`.
///
/// The experts' product: `x` holds the tokens sorted by expert, `counts[e]` says how many chose expert `e`. Weights without rows are
/// not read.
///
/// # Shapes
/// - x: `[rows, in]`, rows of group 0 first
/// - weights: `[groups, out, in]`
/// - counts: one entry a group, in sum `rows`
/// - output: `[rows, out]`
///
/// # Panics
/// If `counts` does not fit `weights` or `x`.
pub fn grouped_linear<B: Backend>(x: Tensor<B, 2>, weights: Tensor<B, 3>, counts: &[usize]) -> Tensor<B, 2> {
    assert_eq!(counts.len(), weights.dims()[0], "one count per group");
    assert_eq!(counts.iter().sum::<usize>(), x.dims()[0], "counts sum to the rows");
    match dispatch::grouped_linear(&x, &weights, counts) {
        Some(y) => y,
        None => grouped_linear_plain(x, weights, counts),
    }
}

/// The definition of [`grouped_linear`] in burn's own operations.
pub fn grouped_linear_plain<B: Backend>(x: Tensor<B, 2>, weights: Tensor<B, 3>, counts: &[usize]) -> Tensor<B, 2> {
    let [_, output, input] = weights.dims();
    let mut start = 0;
    let mut parts = Vec::new();
    for (group, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let weight = weights.clone().narrow(0, group, 1).reshape([output, input]);
        parts.push(linear_plain(x.clone().narrow(0, start, count), weight));
        start += count;
    }
    match parts.len() {
        0 => Tensor::<B, 2>::zeros([0, output], &x.device()).cast(x.dtype()),
        1 => parts.remove(0),
        _ => Tensor::cat(parts, 0),
    }
}
