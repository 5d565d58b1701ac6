use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::future::block_on;

/// The values of a contiguous `f32` tensor, and what `work` gives. The copy is queued in front of what `work` queues.
///
/// # Panics
/// When the device is lost, as every read of burn does.
pub(in crate::ops) fn read_during<R: CubeRuntime, T>(x: &CubeTensor<R>, work: impl FnOnce() -> T) -> (Vec<f32>, T) {
    let pending = x.client.read_async(vec![x.handle.clone()]);
    let done = work();
    let mut read = block_on(pending).expect("the device has the values");
    let bytes = read.remove(0);
    let count = x.shape.num_elements();
    let words = bytes.chunks_exact(4).take(count);
    (words.map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect(), done)
}
