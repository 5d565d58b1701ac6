use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Tensor};

use super::bands::cat;
use super::{dispatch, linear_into, linear_plain};

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
    let dtype = x.dtype().into();
    grouped_linear_into(x, weights, counts, dtype)
}

/// [`grouped_linear`] whose sums are of type `dtype`: that of `x`, or `F32`.
pub fn grouped_linear_into<B: Backend>(
    x: Tensor<B, 2>,
    weights: Tensor<B, 3>,
    counts: &[usize],
    dtype: FloatDType,
) -> Tensor<B, 2> {
    assert_eq!(counts.len(), weights.dims()[0], "one count per group");
    assert_eq!(counts.iter().sum::<usize>(), x.dims()[0], "counts sum to the rows");
    match dispatch::grouped_linear(&x, &weights, counts, dtype.into()) {
        Some(y) => y,
        None => group_by_group(x, weights, counts, dtype, |x, weight| linear_into(x, weight, dtype)),
    }
}

/// The definition of [`grouped_linear`] in burn's own operations.
pub fn grouped_linear_plain<B: Backend>(x: Tensor<B, 2>, weights: Tensor<B, 3>, counts: &[usize]) -> Tensor<B, 2> {
    let dtype = x.dtype().into();
    group_by_group(x, weights, counts, dtype, linear_plain)
}

/// The product of each group's rows with its weight, one after the other.
fn group_by_group<B: Backend>(
    x: Tensor<B, 2>,
    weights: Tensor<B, 3>,
    counts: &[usize],
    dtype: FloatDType,
    product: impl Fn(Tensor<B, 2>, Tensor<B, 2>) -> Tensor<B, 2>,
) -> Tensor<B, 2> {
    let [_, output, input] = weights.dims();
    let mut start = 0;
    let mut parts = Vec::new();
    for (group, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let weight = weights.clone().narrow(0, group, 1).reshape([output, input]);
        parts.push(product(x.clone().narrow(0, start, count), weight));
        start += count;
    }
    match parts.is_empty() {
        true => Tensor::<B, 2>::zeros([0, output], &x.device()).cast(dtype),
        false => cat(parts, 0),
    }
}
