use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::dispatch;

/// Matrix product in the precision of its type: burn's, but where that rounds `f32` to fewer bits on the way, as tensor cores do (TF32).
///
/// # Shapes
/// - a: `[…, m, k]`
/// - b: `[…, k, n]`
/// - output: `[…, m, n]`
pub fn product<B: Backend, const D: usize>(a: Tensor<B, D>, b: Tensor<B, D>) -> Tensor<B, D> {
    match dispatch::product(&a, &b) {
        Some(product) => product,
        None => a.matmul(b),
    }
}
