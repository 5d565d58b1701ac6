//! What the model remembers: keys and values of each layer, preallocated and written in place.
//!
//! A chunked layer holds one chunk at most. Chunks begin at multiples of the chunk size, so the key of position `p` has slot
//! `p mod chunk`, and what a query at `p` sees is simply slots `0..=p mod chunk`: nothing ever wraps around.

mod group;
mod layer;
mod span;

pub(crate) use group::Group;
pub use layer::LayerCache;
pub use span::{Piece, Pieces, Span};

use burn::tensor::backend::Backend;
use burn::tensor::{DType, FloatDType, Tensor};

use crate::Llama4Config;
use crate::error::CacheError;
use crate::nn::SequenceTokens;

/// Keys and values of all layers for a number of sequences (rows).
#[derive(Debug, Clone)]
pub struct KvCache<B: Backend> {
    layers: Vec<LayerCache<B>>,
    lengths: Vec<usize>,
    /// Of each sequence, where the chunk begins that chunked layers hold: that of the token written last, whatever was cut away since.
    chunk_held: Vec<usize>,
    capacity: usize,
    chunk: Option<usize>,
}

impl<B: Backend> KvCache<B> {
    /// An empty cache of `rows` sequences of up to `capacity` tokens each.
    ///
    /// `dtype` is that of the model's activations. Chunked layers allocate `min(chunk, capacity)` slots a row, the others `capacity`.
    pub fn new(config: &Llama4Config, rows: usize, capacity: usize, dtype: DType, device: &B::Device) -> Self {
        let dtype: FloatDType = dtype.into();
        // One for all layers: a device looks through the tensors that it holds for each new one.
        let nothing = Tensor::zeros([1; 4], device);
        let layers = (0..config.num_hidden_layers)
            .map(|layer| {
                let chunk = config.chunk_size(layer);
                let slots = chunk.map_or(capacity, |chunk| chunk.min(capacity));
                LayerCache::new(
                    [rows, config.num_key_value_heads, slots, config.head_dim],
                    chunk,
                    dtype,
                    nothing.clone(),
                    device,
                )
            })
            .collect();
        let chunk = (0..config.num_hidden_layers).find_map(|layer| config.chunk_size(layer));
        Self { layers, lengths: vec![0; rows], chunk_held: vec![0; rows], capacity, chunk }
    }

    /// Number of sequences.
    pub fn rows(&self) -> usize {
        self.lengths.len()
    }

    /// Tokens that each sequence has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Number of layers.
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// Tokens that sequence `row` holds.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn len(&self, row: usize) -> usize {
        self.lengths[row]
    }

    /// Whether no sequence holds a token.
    pub fn is_empty(&self) -> bool {
        self.lengths.iter().all(|&length| length == 0)
    }

    /// Bytes of all key and value tensors.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(LayerCache::bytes).sum()
    }

    /// Keys and values of each layer.
    pub fn layers(&self) -> &[LayerCache<B>] {
        &self.layers
    }

    /// The same, to be written to: for layers that are run one by one.
    pub fn layers_mut(&mut self) -> &mut [LayerCache<B>] {
        &mut self.layers
    }

    /// Have every sequence hold `length` tokens with random keys and values, as if that many had been processed.
    ///
    /// For benchmarks: what a step at a depth costs depends on how many keys there are and not on what they are, and a prefill of tens of
    /// thousands of tokens can take hours. They are normal numbers of deviation one, as keys after the QK norm are.
    ///
    /// # Errors
    /// If `length` is beyond the capacity. Nothing has changed then.
    pub fn fill_for_benchmark(&mut self, length: usize) -> Result<(), CacheError> {
        if length > self.capacity {
            return Err(CacheError::Full { row: 0, wanted: length, capacity: self.capacity });
        }
        self.layers.iter_mut().for_each(LayerCache::fill_for_benchmark);
        (0..self.rows()).for_each(|row| self.written(row, length));
        Ok(())
    }

    /// Forget everything; the memory stays.
    pub fn reset(&mut self) {
        self.lengths.fill(0);
    }

    /// Forget one sequence.
    pub fn reset_row(&mut self, row: usize) -> Result<(), CacheError> {
        self.check_row(row)?;
        self.lengths[row] = 0;
        Ok(())
    }

    /// Cut sequence `row` to its first `length` tokens, to go on from a shared prefix.
    ///
    /// # Errors
    /// [`CacheError::Evicted`] where a chunked layer has overwritten keys that position `length` would see; it names the
    /// longest length that can be gone back to, and the tokens from there have to be processed again.
    pub fn truncate(&mut self, row: usize, length: usize) -> Result<(), CacheError> {
        self.check_row(row)?;
        let held = self.lengths[row];
        if length > held {
            return Err(CacheError::Ahead { row, held, wanted: length });
        }
        if let Some(chunk) = self.chunk {
            // A token at `length` sees its chunk only; another one has overwritten it from slot 0 on, even if that was cut away since.
            let begin = length - length % chunk;
            if length > begin && self.chunk_held[row] != begin {
                return Err(CacheError::Evicted { row, wanted: length, resume_at: begin });
            }
        }
        self.lengths[row] = length;
        Ok(())
    }

    /// Sequence `row` holds `length` tokens, the last of which was written last.
    fn written(&mut self, row: usize, length: usize) {
        self.lengths[row] = length;
        self.chunk_held[row] = self.chunk.map_or(0, |chunk| length.saturating_sub(1) / chunk * chunk);
    }

    /// Where new tokens of `sequences` will stand; nothing changes yet.
    pub(crate) fn spans(&self, sequences: &[SequenceTokens]) -> Result<Vec<Span>, CacheError> {
        let mut seen = vec![false; self.rows()];
        let mut offset = 0;
        sequences
            .iter()
            .map(|&SequenceTokens { row, len }| {
                self.check_row(row)?;
                if std::mem::replace(&mut seen[row], true) {
                    return Err(CacheError::RowTwice { row });
                }
                if len == 0 {
                    return Err(CacheError::NoTokens { row });
                }
                let past = self.lengths[row];
                if past + len > self.capacity {
                    return Err(CacheError::Full { row, wanted: past + len, capacity: self.capacity });
                }
                let span = Span { row, past, offset, len };
                offset += len;
                Ok(span)
            })
            .collect()
    }

    pub(crate) fn layer(&mut self, layer: usize) -> &mut LayerCache<B> {
        &mut self.layers[layer]
    }

    /// Count the tokens of `spans` as held, once every layer has written them.
    pub(crate) fn advance(&mut self, spans: &[Span]) {
        for span in spans {
            self.written(span.row, span.past + span.len);
        }
    }

    fn check_row(&self, row: usize) -> Result<(), CacheError> {
        if row < self.rows() { Ok(()) } else { Err(CacheError::NoSuchRow { row, rows: self.rows() }) }
    }
}

#[cfg(test)]
mod tests {
    use burn_ndarray::NdArray;

    use super::*;

    #[test]
    fn a_filled_cache_holds_random_keys_everywhere_and_goes_on() {
        let config = Llama4Config::tiny_chunked();
        let mut cache = KvCache::<NdArray>::new(&config, 2, 20, DType::F32, &Default::default());
        assert!(matches!(cache.fill_for_benchmark(21), Err(CacheError::Full { wanted: 21, .. })));
        assert!(cache.is_empty());
        cache.fill_for_benchmark(18).unwrap();
        assert_eq!((cache.len(0), cache.len(1)), (18, 18));
        for layer in cache.layers() {
            for tensor in [layer.keys(), layer.values()] {
                let values: Vec<f32> = tensor.to_data().to_vec().unwrap();
                assert!(values.iter().all(|value| *value != 0.0), "a slot was left out");
            }
        }
        let spans = cache.spans(&[SequenceTokens { row: 1, len: 2 }]).unwrap();
        assert_eq!(spans[0].past, 18);
    }
}
