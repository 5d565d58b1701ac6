use burn::tensor::backend::Backend;
use burn::tensor::{DType, FloatDType, Tensor};

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

/// [`product`] of two matrices of one type, its sums of type `dtype`: the same, or `F32` for sums that 16 bits have no room for. For those
/// burn itself has no operation but with both matrices made larger.
///
/// # Shapes
/// As [`product`].
pub fn product_into<B: Backend, const D: usize>(a: Tensor<B, D>, b: Tensor<B, D>, dtype: FloatDType) -> Tensor<B, D> {
    if a.dtype() == DType::from(dtype) {
        return product(a, b);
    }
    match dispatch::product_into(&a, &b, dtype.into()) {
        Some(product) => product,
        None => product(a.cast(dtype), b.cast(dtype)),
    }
}
