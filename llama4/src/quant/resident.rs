use burn::tensor::backend::Backend;

/// Smaller tensors are left to the pools.
const LARGE: usize = 1 << 20;

/// CubeCL 0.9 finds a persistent allocation again only if its size is a multiple of the device's alignment, which is less than this everywhere.
const ALIGNMENT: usize = 1 << 12;

/// Make a weight of so many bytes, in memory of exactly its size where the device has pools.
///
/// Pools are for tensors that come and go: they round up to pages, which are gigabytes on a large device.
pub(crate) fn resident<B: Backend, I, O>(device: &B::Device, bytes: usize, input: I, make: impl Fn(I) -> O) -> O {
    match bytes >= LARGE && bytes.is_multiple_of(ALIGNMENT) {
        true => B::memory_persistent_allocations(device, input, make),
        false => make(input),
    }
}
