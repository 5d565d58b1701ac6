use burn::tensor::activation::softmax;
use burn::tensor::backend::Backend;
use burn::tensor::{Bool, FloatDType, Tensor};

use super::{dispatch, product};
use crate::cache::{Group, LayerCache, Piece};

/// Scores held at once by the plain definition: 2²⁵ `f32`, 128 MiB, which is the least that WebGPU lets a shader bind. Longer prefills go
/// through query block by query block.
pub(crate) const SCORES_AT_ONCE: usize = 1 << 25;

/// Grouped-query causal attention of pieces, at most one a row, over a layer's cache, which already holds their own keys and values.
///
/// `softmax(scale · q kᵀ) v`, query `i` of a piece over slots [`Piece::visible`]`(i)`; query head `h` reads kv head
/// `h / (heads / kv_heads)`. Softmax in `f32`.
///
/// # Shapes
/// - queries: `[tokens, heads, head_dim]`, the whole ragged batch
/// - output: `[pieces' tokens, heads, head_dim]`, in the order of the pieces
pub fn cached_attention<B: Backend>(
    queries: &Tensor<B, 3>,
    cache: &LayerCache<B>,
    pieces: &[Piece],
    scale: f64,
) -> Tensor<B, 3> {
    match dispatch::cached_attention(queries, cache, pieces, scale) {
        Some(y) => y,
        None => cached_attention_plain(queries, cache, pieces, scale),
    }
}

/// The definition of [`cached_attention`] in burn's own operations.
pub fn cached_attention_plain<B: Backend>(
    queries: &Tensor<B, 3>,
    cache: &LayerCache<B>,
    pieces: &[Piece],
    scale: f64,
) -> Tensor<B, 3> {
    let parts = Group::of_rows(pieces).into_iter().map(|group| {
        let stored = |tensor: &Tensor<B, 4>| {
            tensor.clone().narrow(0, group.first.row, group.count).narrow(2, 0, group.first.keys())
        };
        group_attention(group.tokens(queries), stored(cache.keys()), stored(cache.values()), scale)
    });
    join(parts.collect())
}

/// Grouped-query causal attention of each piece over its own keys and values: as [`cached_attention`] for pieces that begin a chunk, which
/// see nothing that came before.
///
/// # Shapes
/// - queries: `[tokens, heads, head_dim]`, the whole ragged batch
/// - keys, values: `[tokens, kv_heads, head_dim]`, likewise
/// - output: `[pieces' tokens, heads, head_dim]`, in the order of the pieces
pub fn fresh_attention<B: Backend>(
    queries: &Tensor<B, 3>,
    keys: &Tensor<B, 3>,
    values: &Tensor<B, 3>,
    pieces: &[Piece],
    scale: f64,
) -> Tensor<B, 3> {
    match dispatch::fresh_attention(queries, keys, values, pieces, scale) {
        Some(y) => y,
        None => fresh_attention_plain(queries, keys, values, pieces, scale),
    }
}

/// The definition of [`fresh_attention`] in burn's own operations.
pub fn fresh_attention_plain<B: Backend>(
    queries: &Tensor<B, 3>,
    keys: &Tensor<B, 3>,
    values: &Tensor<B, 3>,
    pieces: &[Piece],
    scale: f64,
) -> Tensor<B, 3> {
    let parts = Group::of_any(pieces).into_iter().map(|group| {
        let own = |tensor: &Tensor<B, 3>| group.tokens(tensor).swap_dims(1, 2);
        group_attention(group.tokens(queries), own(keys), own(values), scale)
    });
    join(parts.collect())
}

fn join<B: Backend>(mut parts: Vec<Tensor<B, 3>>) -> Tensor<B, 3> {
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, 0) }
}

/// Causal attention of a batch, aligned at the last key, in blocks of queries: `q [batch, len, heads, head_dim]`, `k` and `v
/// [batch, kv_heads, keys, head_dim]`, output `[batch * len, heads, head_dim]`.
fn group_attention<B: Backend>(q: Tensor<B, 4>, k: Tensor<B, 4>, v: Tensor<B, 4>, scale: f64) -> Tensor<B, 3> {
    let [batch, len, heads, head_dim] = q.dims();
    let [_, kv_heads, keys, _] = k.dims();
    let q = q.reshape([batch, len, kv_heads, heads / kv_heads, head_dim]).permute([0, 2, 3, 1, 4]);
    let k = k.swap_dims(2, 3);

    let block = (SCORES_AT_ONCE / (batch * heads * keys)).clamp(1, len);
    let mut blocks: Vec<Tensor<B, 5>> = (0..len)
        .step_by(block)
        .map(|start| {
            let rows = block.min(len - start);
            // The block's last query sees all but the keys of the queries after it.
            let seen = keys - (len - start - rows);
            block_attention(
                q.clone().narrow(3, start, rows),
                k.clone().narrow(3, 0, seen),
                v.clone().narrow(2, 0, seen),
                scale,
            )
        })
        .collect();
    let output = if blocks.len() == 1 { blocks.remove(0) } else { Tensor::cat(blocks, 3) };
    output.permute([0, 3, 1, 2, 4]).reshape([batch * len, heads, head_dim])
}

/// Causal attention aligned at the last key: `q [rows, kv_heads, group, len, head_dim]`, `k [rows, kv_heads, head_dim, keys]`,
/// `v [rows, kv_heads, keys, head_dim]`.
fn block_attention<B: Backend>(q: Tensor<B, 5>, k: Tensor<B, 4>, v: Tensor<B, 4>, scale: f64) -> Tensor<B, 5> {
    let dtype: FloatDType = q.dtype().into();
    let [rows, kv_heads, group, len, head_dim] = q.dims();
    let keys = k.dims()[3];
    let q = q.reshape([rows, kv_heads, group * len, head_dim]);
    let mut scores = product(q, k).cast(FloatDType::F32).mul_scalar(scale);
    if len > 1 {
        // True above the diagonal that ends at the last key.
        let hidden = Tensor::<B, 2, Bool>::tril_mask([len, keys], (keys - len) as i64, &scores.device());
        scores = scores
            .reshape([rows, kv_heads, group, len, keys])
            .mask_fill(hidden.unsqueeze(), f32::NEG_INFINITY)
            .reshape([rows, kv_heads, group * len, keys]);
    }
    product(softmax(scores, 3).cast(dtype), v).reshape([rows, kv_heads, group, len, head_dim])
}
