use burn_ndarray::NdArrayTensor;

use super::kernels::{self, Level, Pool, Queries, Stored};
use super::{floats, tensor};
use crate::cache::Piece;

/// `queries [tokens, heads, head_dim]`, `keys` and `values` `[rows, kv_heads, slots, head_dim]`.
pub(in crate::ops) fn cached_attention(
    queries: (&NdArrayTensor, [usize; 3]),
    keys: &NdArrayTensor,
    values: &NdArrayTensor,
    [_, kv_heads, slots, head_dim]: [usize; 4],
    pieces: &[Piece],
    scale: f64,
) -> Option<NdArrayTensor> {
    let strides = Strides { head: slots * head_dim, key: head_dim, kv_heads };
    let row = kv_heads * slots * head_dim;
    attention(queries, keys, values, strides, pieces, |piece| piece.row * row, scale)
}

/// `queries [tokens, heads, head_dim]`, `keys` and `values` `[tokens, kv_heads, head_dim]`.
pub(in crate::ops) fn fresh_attention(
    queries: (&NdArrayTensor, [usize; 3]),
    keys: &NdArrayTensor,
    values: &NdArrayTensor,
    [_, kv_heads, head_dim]: [usize; 3],
    pieces: &[Piece],
    scale: f64,
) -> Option<NdArrayTensor> {
    let strides = Strides { head: head_dim, key: kv_heads * head_dim, kv_heads };
    attention(queries, keys, values, strides, pieces, |piece| piece.offset * kv_heads * head_dim, scale)
}

/// Values from one key to another.
struct Strides {
    head: usize,
    key: usize,
    kv_heads: usize,
}

fn attention(
    (x, [_, heads, head_dim]): (&NdArrayTensor, [usize; 3]),
    keys: &NdArrayTensor,
    values: &NdArrayTensor,
    strides: Strides,
    pieces: &[Piece],
    first_key: impl Fn(&Piece) -> usize,
    scale: f64,
) -> Option<NdArrayTensor> {
    floats!(x, keys, values);
    let stored = Stored {
        keys,
        values,
        heads,
        kv_heads: strides.kv_heads,
        head_dim,
        head_stride: strides.head,
        key_stride: strides.key,
        scale: scale as f32,
    };
    let mut output = 0;
    let queries: Vec<Queries> = pieces
        .iter()
        .map(|piece| {
            output += piece.len;
            Queries {
                offset: piece.offset,
                len: piece.len,
                past: piece.first_slot,
                first_key: first_key(piece),
                output: output - piece.len,
            }
        })
        .collect();
    tensor(vec![output, heads, head_dim], |y| {
        kernels::attention(Pool::global(), Level::current(), x, &stored, &queries, y);
    })
}
