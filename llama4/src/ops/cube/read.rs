use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::future::block_on;

/// The values of a contiguous tensor as words of 32 bits, and what `work` gives. The copy is queued in front of what `work` queues.
///
/// # Panics
/// When the device is lost, as every read of burn does.
pub(in crate::ops) fn read_during<R: CubeRuntime, T>(x: &CubeTensor<R>, work: impl FnOnce() -> T) -> (Vec<u32>, T) {
    let pending = x.client.read_async(vec![x.handle.clone()]);
    let done = work();
    let mut read = block_on(pending).expect("the device has the values");
    let bytes = read.remove(0);
    let words = bytes.chunks_exact(4).take(x.shape.num_elements());
    (words.map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect(), done)
}
