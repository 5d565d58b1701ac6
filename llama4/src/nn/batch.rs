use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};

/// The new tokens of one sequence in a [`TokenBatch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequenceTokens {
    /// Row of the [`KvCache`](crate::cache::KvCache) that holds the sequence.
    pub row: usize,
    /// How many new tokens it has.
    pub len: usize,
}

/// New tokens of one or more sequences: a prefill, a piece of one, a decode step, or a mixture.
///
/// Ragged: the tokens stand one after the other without padding, so sequences of different lengths cost what they cost alone.
#[derive(Debug, Clone)]
pub struct TokenBatch<B: Backend> {
    /// Ids, `[tokens]`.
    pub tokens: Tensor<B, 1, Int>,
    /// The sequences in the order of their tokens.
    pub sequences: Vec<SequenceTokens>,
}

impl<B: Backend> TokenBatch<B> {
    /// A batch of `(cache row, new tokens)`.
    pub fn new<T: AsRef<[u32]>>(sequences: &[(usize, T)], device: &B::Device) -> Self {
        let ids: Vec<i32> =
            sequences.iter().flat_map(|(_, tokens)| tokens.as_ref().iter().map(|&id| id as i32)).collect();
        let shape = [ids.len()];
        Self {
            tokens: Tensor::from_data(TensorData::new(ids, shape), device),
            sequences: sequences
                .iter()
                .map(|(row, tokens)| SequenceTokens { row: *row, len: tokens.as_ref().len() })
                .collect(),
        }
    }

    /// One sequence in cache row 0.
    pub fn single(tokens: &[u32], device: &B::Device) -> Self {
        Self::new(&[(0, tokens)], device)
    }

    /// One sequence a row, from rows padded on either side to the same length, as tokenizers and data loaders make them.
    ///
    /// Padding is dropped, not masked: a padded row gives what the row gives alone. `mask` is true at real tokens; a row without any is left out.
    pub fn from_padded<T: AsRef<[u32]>, M: AsRef<[bool]>>(rows: &[T], mask: &[M], device: &B::Device) -> Self {
        let sequences: Vec<(usize, Vec<u32>)> = rows
            .iter()
            .zip(mask)
            .enumerate()
            .map(|(row, (ids, mask))| {
                let real = ids.as_ref().iter().zip(mask.as_ref()).filter(|(_, real)| **real);
                (row, real.map(|(id, _)| *id).collect::<Vec<_>>())
            })
            .filter(|(_, ids)| !ids.is_empty())
            .collect();
        Self::new(&sequences, device)
    }

    /// Number of tokens over all sequences.
    pub fn len(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.len).sum()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
