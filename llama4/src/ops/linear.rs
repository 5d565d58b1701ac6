use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Tensor};

use super::bands::in_bands;
use super::{dispatch, product, product_into};

/// `y = x Wᵀ`, each output the product of `x` with one contiguous row of the weight. Computed in the type of `x`, whatever that of the
/// weight is.
///
/// # Shapes
/// - x: `[tokens, in]`
/// - weight: `[out, in]`
/// - output: `[tokens, out]`
pub fn linear<B: Backend>(x: Tensor<B, 2>, weight: Tensor<B, 2>) -> Tensor<B, 2> {
    match dispatch::linear(&x, &weight, x.dtype()) {
        Some(y) => y,
        None => linear_plain(x, weight),
    }
}

/// [`linear`] whose sums are of type `dtype`: that of `x`, or `F32`.
pub fn linear_into<B: Backend>(x: Tensor<B, 2>, weight: Tensor<B, 2>, dtype: FloatDType) -> Tensor<B, 2> {
    match dispatch::linear(&x, &weight, dtype.into()) {
        Some(y) => y,
        None if x.dtype() == weight.dtype() => product_into(x, weight.transpose(), dtype),
        None => linear_plain(x.cast(dtype), weight),
    }
}

/// `y = x Wᵀ`, computed in `f32` and left in it, whatever the types of both: for few outputs that decide something.
///
/// # Shapes
/// - x: `[tokens, in]`
/// - weight: `[out, in]`
/// - output: `f32`, `[tokens, out]`
pub fn linear_f32<B: Backend>(x: Tensor<B, 2>, weight: Tensor<B, 2>) -> Tensor<B, 2> {
    match dispatch::linear_f32(&x, &weight) {
        Some(y) => y,
        None => linear_f32_plain(x, weight),
    }
}

/// [`linear_f32`] by way of [`linear`].
pub fn linear_f32_plain<B: Backend>(x: Tensor<B, 2>, weight: Tensor<B, 2>) -> Tensor<B, 2> {
    linear(x.cast(FloatDType::F32), weight.cast(FloatDType::F32))
}

/// The definition of [`linear`] in burn's own operations.
pub fn linear_plain<B: Backend>(x: Tensor<B, 2>, weight: Tensor<B, 2>) -> Tensor<B, 2> {
    if x.dtype() == weight.dtype() {
        return product(x, weight.transpose());
    }
    let (dtype, [rows, output]): (FloatDType, _) = (x.dtype().into(), [x.dims()[0], weight.dims()[0]]);
    in_bands(x, output, &[rows], dtype, |rows| weight.clone().slice([rows]).cast(dtype))
}
