use burn::tensor::backend::Backend;
use burn::tensor::{Distribution, FloatDType, Tensor, s};

use super::{Group, Piece};

/// Slots of a row that are drawn; the others repeat them.
const RANDOM_SLOTS: usize = 1024;

/// Keys and values of one layer, `[rows, kv_heads, slots, head_dim]` each.
#[derive(Debug, Clone)]
pub struct LayerCache<B: Backend> {
    keys: Tensor<B, 4>,
    values: Tensor<B, 4>,
    chunk: Option<usize>,
    /// Stands in for a tensor that is being written to: making one each time would take longer than writing.
    nothing: Tensor<B, 4>,
}

impl<B: Backend> LayerCache<B> {
    /// `nothing` is any small tensor.
    pub(super) fn new(
        shape: [usize; 4],
        chunk: Option<usize>,
        dtype: FloatDType,
        nothing: Tensor<B, 4>,
        device: &B::Device,
    ) -> Self {
        let zeros = || Tensor::<B, 4>::zeros(shape, device).cast(dtype);
        Self { keys: zeros(), values: zeros(), chunk, nothing }
    }

    /// Positions in a chunk; `None` where the layer sees everything.
    pub fn chunk(&self) -> Option<usize> {
        self.chunk
    }

    /// Keys, `[rows, kv_heads, slots, head_dim]`.
    pub fn keys(&self) -> &Tensor<B, 4> {
        &self.keys
    }

    /// Values, like the keys.
    pub fn values(&self) -> &Tensor<B, 4> {
        &self.values
    }

    /// Bytes of both tensors.
    pub fn bytes(&self) -> usize {
        2 * self.keys.shape().num_elements() * self.keys.dtype().size()
    }

    /// Fill every slot with random numbers: a block of them, again and again.
    pub(super) fn fill_for_benchmark(&mut self) {
        let [rows, kv_heads, slots, head_dim] = self.keys.dims();
        let dtype: FloatDType = self.keys.dtype().into();
        let width = slots.clamp(1, RANDOM_SLOTS);
        let device = self.keys.device();
        let random = || {
            let shape = [1, kv_heads, width, head_dim];
            Tensor::<B, 4>::random(shape, Distribution::Normal(0.0, 1.0), &device).cast(dtype)
        };
        let (keys, values) = (random(), random());
        for row in 0..rows {
            for first in (0..slots).step_by(width) {
                let count = width.min(slots - first);
                let ranges = s![row..row + 1, 0..kv_heads, first..first + count, 0..head_dim];
                let part = |block: &Tensor<B, 4>| block.clone().narrow(2, 0, count);
                self.keys.inplace(|cache| cache.slice_assign(ranges, part(&keys)));
                self.values.inplace(|cache| cache.slice_assign(ranges, part(&values)));
            }
        }
    }

    /// Hand both tensors to `work`, which gives them back, written to or not, with whatever else it has.
    #[cfg(feature = "cube")]
    pub(crate) fn rewrite<T>(
        &mut self,
        work: impl FnOnce(Tensor<B, 4>, Tensor<B, 4>) -> (Tensor<B, 4>, Tensor<B, 4>, T),
    ) -> T {
        let Self { keys, values, nothing, .. } = self;
        let taken = [&mut *keys, &mut *values].map(|tensor| std::mem::replace(tensor, nothing.clone()));
        let [old_keys, old_values] = taken;
        let answer;
        (*keys, *values, answer) = work(old_keys, old_values);
        answer
    }

    /// Write the keys and values of pieces, at most one a row, into their slots, in place.
    ///
    /// # Shapes
    /// - keys, values: `[tokens, kv_heads, head_dim]`, the whole ragged batch
    pub fn write(&mut self, pieces: &[Piece], keys: &Tensor<B, 3>, values: &Tensor<B, 3>) {
        for group in Group::of_rows(pieces) {
            let (first, rows) = (group.first, group.count);
            let [_, kv_heads, head_dim] = keys.dims();
            let ranges = s![first.row..first.row + rows, 0..kv_heads, first.written(), 0..head_dim];
            let place = |new: &Tensor<B, 3>| group.tokens(new).swap_dims(1, 2);
            for (cache, new) in [(&mut self.keys, keys), (&mut self.values, values)] {
                let old = std::mem::replace(cache, self.nothing.clone());
                *cache = old.slice_assign(ranges, place(new));
            }
        }
    }
}
