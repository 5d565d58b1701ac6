use burn::tensor::activation::softmax;
use burn::tensor::backend::Backend;
use burn::tensor::{Bool, FloatDType, Tensor};

use crate::cache::{Group, LayerCache, Piece};

/// Scores held at once by the plain definition: 2²⁶ `f32`, 256 MiB. Longer prefills go through query block by query block.
const SCORES_AT_ONCE: usize = 1 << 26;

/// Grouped-query causal attention of one round over a layer's cache, which already holds the round's own keys and values.
///
/// `softmax(scale · q kᵀ) v`, query `i` of a piece over slots [`Piece::visible`]`(i)`; query head `h` reads kv head
/// `h / (heads / kv_heads)`. Softmax in `f32`.
///
/// # Shapes
/// - queries: `[tokens, heads, head_dim]`, the whole ragged batch
/// - output: `[round's tokens, heads, head_dim]`, in the order of the pieces
pub fn attention<B: Backend>(
    queries: &Tensor<B, 3>,
    cache: &LayerCache<B>,
    round: &[Piece],
    scale: f64,
) -> Tensor<B, 3> {
    attention_plain(queries, cache, round, scale)
}

/// The definition of [`attention`] in burn's own operations.
pub fn attention_plain<B: Backend>(
    queries: &Tensor<B, 3>,
    cache: &LayerCache<B>,
    round: &[Piece],
    scale: f64,
) -> Tensor<B, 3> {
    let groups = Group::split(round);
    let mut parts: Vec<_> = groups.iter().map(|group| group_attention(queries, cache, group, scale)).collect();
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, 0) }
}

/// Attention of pieces that are alike, as one batch, in blocks of queries: `[rows * len, heads, head_dim]`.
fn group_attention<B: Backend>(
    queries: &Tensor<B, 3>,
    cache: &LayerCache<B>,
    group: &Group,
    scale: f64,
) -> Tensor<B, 3> {
    let (piece, rows) = (group.first, group.rows);
    let [_, heads, head_dim] = queries.dims();
    let kv_heads = cache.keys().dims()[1];
    let queries =
        group.tokens(queries).reshape([rows, piece.len, kv_heads, heads / kv_heads, head_dim]).permute([0, 2, 3, 1, 4]);
    let stored = |tensor: &Tensor<B, 4>| tensor.clone().narrow(0, piece.row, rows).narrow(2, 0, piece.keys());
    let (keys, values) = (stored(cache.keys()).swap_dims(2, 3), stored(cache.values()));

    let block = (SCORES_AT_ONCE / (rows * heads * piece.keys())).clamp(1, piece.len);
    let mut blocks: Vec<Tensor<B, 5>> = (0..piece.len)
        .step_by(block)
        .map(|start| {
            let len = block.min(piece.len - start);
            let seen = piece.visible(start + len - 1).end;
            block_attention(
                queries.clone().narrow(3, start, len),
                keys.clone().narrow(3, 0, seen),
                values.clone().narrow(2, 0, seen),
                scale,
            )
        })
        .collect();
    let output = if blocks.len() == 1 { blocks.remove(0) } else { Tensor::cat(blocks, 3) };
    output.permute([0, 3, 1, 2, 4]).reshape([rows * piece.len, heads, head_dim])
}

/// Causal attention aligned at the last key: `q [rows, kv_heads, group, len, head_dim]`, `k [rows, kv_heads, head_dim, keys]`,
/// `v [rows, kv_heads, keys, head_dim]`.
fn block_attention<B: Backend>(q: Tensor<B, 5>, k: Tensor<B, 4>, v: Tensor<B, 4>, scale: f64) -> Tensor<B, 5> {
    let dtype: FloatDType = q.dtype().into();
    let [rows, kv_heads, group, len, head_dim] = q.dims();
    let keys = k.dims()[3];
    let q = q.reshape([rows, kv_heads, group * len, head_dim]);
    let mut scores = q.matmul(k).cast(FloatDType::F32).mul_scalar(scale);
    if len > 1 {
        // True above the diagonal that ends at the last key.
        let hidden = Tensor::<B, 2, Bool>::tril_mask([len, keys], (keys - len) as i64, &scores.device());
        scores = scores
            .reshape([rows, kv_heads, group, len, keys])
            .mask_fill(hidden.unsqueeze(), f32::NEG_INFINITY)
            .reshape([rows, kv_heads, group * len, keys]);
    }
    softmax(scores, 3).cast(dtype).matmul(v).reshape([rows, kv_heads, group, len, head_dim])
}
