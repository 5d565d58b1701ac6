use std::cell::Cell;

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};

use super::dispatch;

/// The values of an `f32` tensor, and what `work` gives, which may queue operations: the values do not wait for those.
pub fn read_during<B: Backend, T>(x: &Tensor<B, 2>, work: impl FnOnce() -> T) -> (Vec<f32>, T) {
    dispatch::read_during(x, work)
}

/// The same of indices.
pub fn read_ids_during<B: Backend, T>(ids: &Tensor<B, 2, Int>, work: impl FnOnce() -> T) -> (Vec<u32>, T) {
    dispatch::read_ids_during(ids, work)
}

thread_local! {
    static AHEAD: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread queues what a device will do when it is done with what it is doing.
pub(crate) fn is_ahead() -> bool {
    AHEAD.get()
}

/// What `work` gives, which queues such operations.
#[cfg(feature = "cube")]
pub(super) fn ahead<T>(work: impl FnOnce() -> T) -> T {
    /// Also where `work` panics.
    struct Until(bool);
    impl Drop for Until {
        fn drop(&mut self) {
            AHEAD.set(self.0);
        }
    }
    let _until = Until(AHEAD.replace(true));
    work()
}

/// Whether operations of the backend are queued for a device, and their caller goes on at once.
pub fn queues<B: Backend>() -> bool {
    dispatch::queues::<B>()
}

/// Rows that go through a layer at once with little loss; more of them need more memory. 512 on a CPU, 2048 through wgpu, 4096 on CUDA.
///
/// On a GPU, reading the experts takes longer than multiplying few rows by them: of 2048 tokens, each of Scout's 16 experts gets about 128. On CUDA those are one
/// tile, and the last tile of an expert is half empty on average.
pub fn rows_at_once<B: Backend>() -> usize {
    dispatch::rows_at_once::<B>().unwrap_or(512)
}

/// Have a device begin with what is queued for it, where that would wait for more.
pub fn submit<B: Backend>(device: &B::Device) {
    dispatch::submit::<B>(device);
}

/// [`read_during`] where the backend reads when all that is queued is done.
pub(super) fn read_after<B: Backend, T>(x: &Tensor<B, 2>, work: impl FnOnce() -> T) -> (Vec<f32>, T) {
    let values = x.to_data().iter::<f32>().collect();
    (values, work())
}

/// [`read_ids_during`] likewise.
pub(super) fn read_ids_after<B: Backend, T>(ids: &Tensor<B, 2, Int>, work: impl FnOnce() -> T) -> (Vec<u32>, T) {
    let values = ids.to_data().iter::<u32>().collect();
    (values, work())
}
