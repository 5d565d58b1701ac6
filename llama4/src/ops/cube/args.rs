//! Tensors that kernels write, and tensors as their arguments: arrays, which cost less to pass than tensors with shapes and strides.

use std::any::TypeId;
use std::cell::RefCell;
use std::collections::HashSet;

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::device::{Device, DeviceId};
use cubecl::prelude::*;
use cubecl::server::Handle;

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

/// A table of words, brought to the device.
pub(super) fn upload<R: CubeRuntime>(client: &ComputeClient<R>, table: &[u32]) -> Handle {
    client.create_from_slice(bytemuck::cast_slice(table))
}

/// Whether part of a tensor may be bound that begins so many bytes behind its begin: wgpu has an alignment for that, which may be 256.
pub(super) fn may_begin_at<R: CubeRuntime>(client: &ComputeClient<R>, bytes: usize) -> bool {
    !is_wgpu::<R>() || bytes.is_multiple_of(client.properties().memory.alignment as usize)
}

/// Whether a runtime is that of wgpu.
pub(in crate::ops) fn is_wgpu<R: CubeRuntime>() -> bool {
    #[cfg(feature = "wgpu")]
    return TypeId::of::<R>() == TypeId::of::<cubecl::wgpu::WgpuRuntime>();
    #[cfg(not(feature = "wgpu"))]
    false
}

/// Bytes that memory of results is a multiple of, and that it is larger than what it is needed for.
const APART: usize = 512;

/// Most bytes of a result that has memory of its own.
const OWN: usize = 1 << 20;

/// Memory for results, with anything in it.
///
/// It is larger than its tensor. Weights have memory of exactly their size, and CubeCL looks for new memory among all of that size first, one after the
/// other: a result as large as the weight of a norm would be looked for among those of all layers.
///
/// A decoded token has small results by the hundred. Of a pool, CubeCL goes through a page for each of them; persistent memory is found by its
/// size. Powers of two keep sizes few, since such memory is not given back.
pub(super) fn empty<R: CubeRuntime>(
    client: ComputeClient<R>,
    device: R::Device,
    shape: Shape,
    dtype: DType,
) -> CubeTensor<R> {
    let needed = shape.num_elements() * dtype.size();
    let own = needed <= OWN;
    let size = APART + if own { needed.next_power_of_two().max(APART) } else { needed.next_multiple_of(APART) };
    let handle = match own && is_first(TypeId::of::<R>(), device.to_id(), size) {
        // Where there is persistent memory of a size, all that is asked for of that size is.
        true => client.memory_persistent_allocation((), |()| client.empty(size)),
        false => client.empty(size),
    };
    let handle = handle.offset_end((size - needed) as u64);
    CubeTensor::new_contiguous(client, device, shape, handle, dtype)
}

/// Whether this thread, which has memory of its own on a device, asks for memory of this size for the first time.
fn is_first(runtime: TypeId, device: DeviceId, size: usize) -> bool {
    thread_local! {
        static KNOWN: RefCell<HashSet<(TypeId, DeviceId, usize)>> = RefCell::default();
    }
    KNOWN.with_borrow_mut(|known| known.insert((runtime, device, size)))
}
