use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};

use super::{HeadSteps, cached_attention, dispatch, position_heads};
use crate::cache::{LayerCache, Pieces, Span};

/// Queries, keys and values of new tokens as they come from their projections.
#[derive(Debug, Clone)]
pub struct NewHeads<B: Backend> {
    /// `[tokens, heads, head_dim]`.
    pub queries: Tensor<B, 3>,
    /// `[tokens, kv_heads, head_dim]`.
    pub keys: Tensor<B, 3>,
    /// Like the keys.
    pub values: Tensor<B, 3>,
}

/// Where new tokens go, one of each sequence.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a, B: Backend> {
    /// Their spans, each of one token.
    pub spans: &'a [Span],
    /// The same on the device: row of the cache and position of each token, `[tokens, 2]`.
    pub table: &'a Tensor<B, 2, Int>,
}

/// Attention of one new token a sequence: rotate, normalise and scale its heads, write its key and value to the cache, attend over
/// what the cache holds then. Keys take all of `steps` but the temperature.
///
/// # Shapes
/// - output: `[tokens, heads, head_dim]`
pub fn decode_attention<B: Backend>(
    new: NewHeads<B>,
    steps: &HeadSteps<B>,
    cache: &mut LayerCache<B>,
    places: &Places<'_, B>,
    scale: f64,
) -> Tensor<B, 3> {
    match dispatch::decode_attention(&new, steps, cache, places, scale) {
        Some(y) => y,
        None => decode_attention_plain(new, steps, cache, places.spans, scale),
    }
}

/// [`decode_attention`] by way of [`position_heads`] and [`cached_attention`].
pub fn decode_attention_plain<B: Backend>(
    new: NewHeads<B>,
    steps: &HeadSteps<B>,
    cache: &mut LayerCache<B>,
    spans: &[Span],
    scale: f64,
) -> Tensor<B, 3> {
    let queries = position_heads(new.queries, steps);
    let keys = position_heads(new.keys, &HeadSteps { temperature: None, ..steps.clone() });
    // One token is one piece, and those that begin a chunk see what they write, like the others.
    let mut pieces: Vec<_> = Pieces::cut(spans, cache.chunk()).iter().copied().collect();
    pieces.sort_by_key(|piece| piece.offset);
    cache.write(&pieces, &keys, &new.values);
    cached_attention(&queries, cache, &pieces, scale)
}
