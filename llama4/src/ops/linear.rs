use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::dispatch;

/// `y = x Wᵀ`, each output the product of `x` with one contiguous row of the weight.
///
/// # Shapes
/// - x: `[tokens, in]`
/// - weight: `[out, in]`
/// - output: `[tokens, out]`
pub fn linear<B: Backend>(x: Tensor<B, 2>, weight: Tensor<B, 2>) -> Tensor<B, 2> {
    match dispatch::linear(&x, &weight) {
        Some(y) => y,
        None => linear_plain(x, weight),
    }
}

/// The definition of [`linear`] in burn's own operations.
pub fn linear_plain<B: Backend>(x: Tensor<B, 2>, weight: Tensor<B, 2>) -> Tensor<B, 2> {
    x.matmul(weight.transpose())
}
