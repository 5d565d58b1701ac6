use std::cell::Cell;

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// CubeCL 0.9 finds a persistent allocation again only if its size is a multiple of the device's alignment, which is no more than this anywhere:
/// that of CUDA, and twice the most that WebGPU allows.
const ALIGNMENT: usize = 512;

/// Make a weight of so many bytes, in memory of exactly its size where the device has pools.
///
/// Pools are for tensors that come and go: they round up to pages, which are gigabytes on a large device. And whatever stays in a page is gone
/// through, and counted anew, each time that a result finds its place there: the norms of 48 layers doubled what a launch costs.
pub(crate) fn resident<B: Backend, I, O>(device: &B::Device, bytes: usize, input: I, make: impl Fn(I) -> O) -> O {
    let made = match bytes > 0 && bytes.is_multiple_of(ALIGNMENT) {
        true => B::memory_persistent_allocations(device, input, make),
        false => make(input),
    };
    send::<B>(device, bytes);
    made
}

/// Bytes of weights that may be on their way to a device.
const UNDER_WAY: usize = 256 << 20;

/// Have what was handed to the device go there, once it is much: wgpu keeps a copy of what is written until work is submitted, and weights alone are
/// no work. A model of 60 GB would be held in the host's memory whole.
fn send<B: Backend>(device: &B::Device, bytes: usize) {
    thread_local! {
        static WAITING: Cell<usize> = const { Cell::new(0) };
    }
    let waiting = WAITING.get() + bytes;
    WAITING.set(waiting % UNDER_WAY);
    if waiting >= UNDER_WAY {
        // Only what is read back is waited for.
        let _ = Tensor::<B, 1>::zeros([1], device).try_into_data();
    }
}
