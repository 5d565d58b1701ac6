//! Launches without what CubeCL's own cost the host.
//!
//! A kernel's `launch_unchecked` gathers the lengths of its arrays and its scalars number by number, and on wgpu each launch gets buffers for them
//! that are filled through a staging buffer: about a fifth of what a launch costs the host there, and a copy on the device in front of each. Here they
//! are words that are put together at once; and what has been in a buffer on wgpu before stays in it, since from one token to the next nearly all
//! launches have the same.

use std::any::TypeId;
use std::cell::RefCell;
use std::collections::HashMap;

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::device::{Device, DeviceId};
use cubecl::prelude::*;
use cubecl::server::{Binding, Bindings, Handle, MetadataBinding, ScalarBinding};

use super::args::{is_wgpu, upload};

/// Buffers with words that a thread keeps for a device, at most.
const KEPT: usize = 1024;

/// A launch whose arguments are being gathered: each method gives what the kernel is compiled for, in the order of the parameters of its `new`. That
/// has what a kernel reads first, then what it writes.
pub(super) struct Launch<'a, R: CubeRuntime> {
    like: &'a CubeTensor<R>,
    buffers: Vec<Binding>,
    /// Vectors of each, in its memory and of its tensor.
    held: Vec<u32>,
    lengths: Vec<u32>,
    scalars: Vec<u32>,
}

impl<'a, R: CubeRuntime> Launch<'a, R> {
    /// On the device of `like`.
    pub(super) fn new(like: &'a CubeTensor<R>) -> Self {
        Self { like, buffers: Vec::with_capacity(16), held: Vec::new(), lengths: Vec::new(), scalars: Vec::new() }
    }

    /// The values of a contiguous tensor, in vectors of `line`.
    pub(super) fn array(&mut self, tensor: &CubeTensor<R>, line: usize) -> ArrayCompilationArg {
        self.bind(tensor, tensor.shape.num_elements(), tensor.dtype.size(), line)
    }

    /// The storage of a contiguous tensor as words of 32 bits, the last half of an odd one left out.
    pub(super) fn words(&mut self, tensor: &CubeTensor<R>, line: usize) -> ArrayCompilationArg {
        self.bind(tensor, tensor.shape.num_elements() * tensor.dtype.size() / 4, 4, line)
    }

    /// A number.
    pub(super) fn number(&mut self, number: usize) -> ScalarCompilationArg<usize> {
        self.scalars.push(number as u32);
        ScalarCompilationArg::new()
    }

    fn bind(&mut self, tensor: &CubeTensor<R>, length: usize, size: usize, line: usize) -> ArrayCompilationArg {
        self.held.push((tensor.handle.size() / (size * line) as u64) as u32);
        self.lengths.push((length / line) as u32);
        self.buffers.push(tensor.handle.clone().binding());
        ArrayCompilationArg { inplace: None, line_size: line }
    }

    /// The settings and the client that the kernel's `new` wants.
    pub(super) fn kernel(&self, dim: CubeDim) -> (KernelSettings, ComputeClient<R>) {
        (KernelSettings::default().cube_dim(dim).address_type(AddressType::U32), self.like.client.clone())
    }

    /// Launch it.
    ///
    /// # Safety
    /// As of the kernel's own `launch_unchecked`: what it reads and writes lies in its arrays.
    pub(super) unsafe fn run<K: CubeKernel>(self, cubes: CubeCount, kernel: K) -> Result<(), LaunchError> {
        let Self { like, mut buffers, mut held, lengths, scalars } = self;
        held.extend(lengths);
        let mut bindings = Bindings::new();
        if is_wgpu::<R>() {
            // What CubeCL would append.
            buffers.push(kept(like, held).binding());
            if !scalars.is_empty() {
                buffers.push(kept(like, scalars).binding());
            }
        } else {
            bindings.metadata = MetadataBinding::new(pairs(&held), held.len());
            if !scalars.is_empty() {
                let dtype = AddressType::U32.unsigned_type();
                bindings.scalars.insert(dtype, ScalarBinding::new(dtype, scalars.len(), pairs(&scalars)));
            }
        }
        bindings.buffers = buffers;
        let kernel = Box::new(KernelTask::<R::Compiler, K>::new(kernel));
        // SAFETY: the caller's.
        unsafe { like.client.launch_unchecked(kernel, cubes, bindings) }
    }
}

/// Words as CubeCL wants them.
fn pairs(words: &[u32]) -> Vec<u64> {
    let pair = |pair: &[u32]| u64::from(pair[0]) | u64::from(*pair.get(1).unwrap_or(&0)) << 32;
    words.chunks(2).map(pair).collect()
}

/// A buffer with these words, and perhaps one behind them.
fn kept<R: CubeRuntime>(like: &CubeTensor<R>, mut words: Vec<u32>) -> Handle {
    type Key = (TypeId, DeviceId, Vec<u32>);
    thread_local! {
        // A thread has memory of its own on a device.
        static KNOWN: RefCell<HashMap<Key, Handle>> = RefCell::default();
    }
    // As CubeCL pads them.
    words.resize(words.len().next_multiple_of(2), 0);
    KNOWN.with_borrow_mut(|known| {
        let key = (TypeId::of::<R>(), like.device.to_id(), words);
        if let Some(handle) = known.get(&key) {
            return handle.clone();
        }
        if known.len() >= KEPT {
            known.clear();
        }
        // Memory of its own: what a launch reads as lengths may not lie in what another writes.
        let handle = like.client.memory_persistent_allocation((), |()| upload(&like.client, &key.2));
        known.insert(key, handle.clone());
        handle
    })
}

#[cfg(test)]
mod tests {
    use super::pairs;

    #[test]
    fn words_lie_in_memory_as_they_are() {
        let words = [7, u32::MAX, 9];
        let paired = pairs(&words);
        assert_eq!(bytemuck::cast_slice::<u64, u32>(&paired), [7, u32::MAX, 9, 0]);
    }
}
