use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::dispatch;

/// The values of an `f32` tensor, and what `work` gives, which may queue operations: the values do not wait for those.
pub fn read_during<B: Backend, T>(x: &Tensor<B, 2>, work: impl FnOnce() -> T) -> (Vec<f32>, T) {
    dispatch::read_during(x, work)
}

/// [`read_during`] where the backend reads when all that is queued is done.
pub(super) fn read_after<B: Backend, T>(x: &Tensor<B, 2>, work: impl FnOnce() -> T) -> (Vec<f32>, T) {
    let values = x.to_data().iter::<f32>().collect();
    (values, work())
}
