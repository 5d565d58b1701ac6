use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::dispatch;

/// Sums of parts of a tensor, which together are its sum: one read of it and nothing else, so the rate of this is what a device's memory
/// allows. How many parts there are is the backend's business; the plain definition has one.
///
/// # Shapes
/// - x: `[values]`, `f32`
/// - output: `[parts]`
pub fn partial_sums<B: Backend>(x: Tensor<B, 1>) -> Tensor<B, 1> {
    match dispatch::partial_sums(&x) {
        Some(sums) => sums,
        None => x.sum(),
    }
}
