//! Tensors as arguments of kernels: arrays, which cost less to pass than tensors with shapes and strides.

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
