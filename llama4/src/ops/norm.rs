use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Tensor};

use super::dispatch;

/// Divide by the root of the mean square over the last axis: `x / sqrt(mean(x²) + ε)`.
///
/// The statistic and the quotient are `f32`, cast back to `x`'s dtype. This is also the whole of Llama 4's QK norm, which has no weight
/// (and is a mean of squares, although the reference calls it an L2 norm).
///
/// # Shapes
/// - x: `[…, width]`
/// - output: same as `x`
pub fn rms_normalize<B: Backend, const D: usize>(x: Tensor<B, D>, epsilon: f64) -> Tensor<B, D> {
    let dtype: FloatDType = x.dtype().into();
    let x = x.cast(FloatDType::F32);
    let mean_square = x.clone().square().mean_dim(D - 1);
    (x / (mean_square + epsilon).sqrt()).cast(dtype)
}

/// [`rms_normalize`] times a weight: `x / sqrt(mean(x²) + ε) · w`.
///
/// The quotient is cast to the type of the weight before the product, as the reference does; in `bf16` the order shows.
///
/// # Shapes
/// - x: `[tokens, width]`
/// - weight: `[width]`
/// - output: `[tokens, width]`, of the type of the weight
pub fn rms_norm<B: Backend>(x: Tensor<B, 2>, weight: Tensor<B, 1>, epsilon: f64) -> Tensor<B, 2> {
    match dispatch::rms_norm(&x, &weight, epsilon) {
        Some(y) => y,
        None => rms_norm_plain(x, weight, epsilon),
    }
}

/// The definition of [`rms_norm`] in burn's own operations.
pub fn rms_norm_plain<B: Backend>(x: Tensor<B, 2>, weight: Tensor<B, 1>, epsilon: f64) -> Tensor<B, 2> {
    let dtype: FloatDType = weight.dtype().into();
    rms_normalize(x, epsilon).cast(dtype) * weight.unsqueeze()
}
