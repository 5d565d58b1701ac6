//! Tensors that kernels write, and tensors as their arguments: arrays, which cost less to pass than tensors with shapes and strides.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// The values of a contiguous tensor, in vectors of `line`.
pub(super) fn array<R: CubeRuntime>(tensor: &CubeTensor<R>, line: usize) -> ArrayArg<'_, R> {
    let (length, size) = (tensor.shape.num_elements(), tensor.dtype.size());
    // SAFETY: the length is that of the tensor, which is contiguous.
    unsafe { ArrayArg::from_raw_parts_and_size(&tensor.handle, length, line, size) }
}

/// The storage of a contiguous tensor as words of 32 bits, the last half of an odd one left out.
pub(super) fn words<R: CubeRuntime>(tensor: &CubeTensor<R>, line: usize) -> ArrayArg<'_, R> {
    let length = tensor.shape.num_elements() * tensor.dtype.size() / 4;
    // SAFETY: the length is not beyond that of the tensor, which is contiguous.
    unsafe { ArrayArg::from_raw_parts_and_size(&tensor.handle, length, line, 4) }
}

/// Bytes that memory of results is a multiple of, and that it is larger than what it is needed for.
const APART: usize = 512;

/// Memory for results, with anything in it.
///
/// It is larger than its tensor. Weights have memory of exactly their size, and CubeCL looks for new memory among all of that size first, one after the
/// other: a result as large as the weight of a norm would be looked for among those of all layers.
pub(super) fn empty<R: CubeRuntime>(
    client: ComputeClient<R>,
    device: R::Device,
    shape: Shape,
    dtype: DType,
) -> CubeTensor<R> {
    let needed = shape.num_elements() * dtype.size();
    let size = needed.next_multiple_of(APART) + APART;
    let handle = client.empty(size).offset_end((size - needed) as u64);
    CubeTensor::new_contiguous(client, device, shape, handle, dtype)
}
