use burn::tensor::backend::Backend;

/// CubeCL 0.9 finds a persistent allocation again only if its size is a multiple of the device's alignment, which is no more than this anywhere:
/// that of CUDA, and twice the most that WebGPU allows.
const ALIGNMENT: usize = 512;

/// Make a weight of so many bytes, in memory of exactly its size where the device has pools.
///
/// Pools are for tensors that come and go: they round up to pages, which are gigabytes on a large device. And whatever stays in a page is gone
/// through, and counted anew, each time that a result finds its place there: the norms of 48 layers doubled what a launch costs.
pub(crate) fn resident<B: Backend, I, O>(device: &B::Device, bytes: usize, input: I, make: impl Fn(I) -> O) -> O {
    match bytes > 0 && bytes.is_multiple_of(ALIGNMENT) {
        true => B::memory_persistent_allocations(device, input, make),
        false => make(input),
    }
}
