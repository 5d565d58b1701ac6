//! Kernels for many rows, which need tensor cores.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;

use super::{Bench, assert_close, bound, product, values};
use crate::cache::Piece;
use crate::ops::cube::tile_product::tile_product;
use crate::ops::cube::{Weights, cached_attention, fresh_attention};
use crate::quant::Packing;

/// Rows of each group, outputs and columns: groups without rows, tiles that are not full, one group alone.
const PRODUCTS: [(&[usize], usize, usize); 6] = [
    (&[130], 264, 512),
    (&[21], 1032, 1024),
    (&[0, 130, 0, 70], 72, 256),
    (&[3, 0, 17, 1], 520, 1024),
    (&[33, 128, 64], 64, 128),
    (&[1, 2, 0, 0, 5, 0, 1], 80, 1280),
];

impl<R: CubeRuntime> Bench<R> {
    #[allow(clippy::print_stderr, reason = "nobody should take what was not tested for a test that passed")]
    pub(super) fn prefill_agrees(&self, types: &[DType]) {
        for &dtype in types {
            for (counts, outputs, columns) in PRODUCTS {
                let ran = self.tiles_agree(dtype, counts, outputs, columns);
                if !ran {
                    eprintln!("not tested: products of many rows in {dtype:?} need tensor cores");
                    break;
                }
            }
            if !self.blocks_agree(dtype) {
                eprintln!("not tested: attention of many queries in {dtype:?} needs tensor cores");
            }
        }
    }

    /// Whether there is a kernel.
    fn tiles_agree(&self, dtype: DType, counts: &[usize], outputs: usize, columns: usize) -> bool {
        let rows = counts.iter().sum();
        let x = values(rows * columns, dtype, 2);
        let put = self.put(&x, [rows, columns], dtype);
        let weight_rows = outputs * counts.len();
        let floats = values(weight_rows * columns, dtype, 3);
        let float = self.put(&floats, [weight_rows, columns], dtype);
        let (q4, q8) =
            (self.packed(Packing::Q4, weight_rows, columns, 4), self.packed(Packing::Q8, weight_rows, columns, 5));
        let weights =
            [(Weights::Float(&float), floats), (Weights::Packed(&q4.0), q4.1), (Weights::Packed(&q8.0), q8.1)];
        for (number, (weight, meant)) in weights.into_iter().enumerate() {
            let Some(y) = tile_product(&put, &weight, counts) else { return false };
            let groups = counts.iter().enumerate().flat_map(|(group, count)| std::iter::repeat_n(group, *count));
            let expected: Vec<f64> = groups
                .zip(x.chunks(columns))
                .flat_map(|(group, x)| product(&meant[group * outputs * columns..][..outputs * columns], x))
                .collect();
            let what = format!("weight {number} {dtype:?} {counts:?} x {outputs} x {columns}");
            assert_close(&what, &self.get(&y), &expected, bound(dtype));
        }
        true
    }

    fn blocks_agree(&self, dtype: DType) -> bool {
        let piece = |row, offset, len, first_slot| Piece { row, offset, len, first_slot };
        let few = [piece(2, 1, 3, 70), piece(0, 7, 16, 3), piece(1, 30, 1, 99)];
        let more = [piece(2, 1, 33, 70), piece(0, 40, 64, 3), piece(1, 105, 7, 140)];
        let many = [piece(0, 0, 200, 0), piece(1, 203, 65, 0), piece(2, 270, 1, 0)];
        [64, 128].into_iter().all(|head_dim| {
            [&few, &more].into_iter().all(|pieces| self.attends(dtype, head_dim, pieces, Some(150)))
                && self.attends(dtype, head_dim, &many, None)
        })
    }

    /// Over a cache of so many slots a row, or over the tokens' own keys.
    fn attends(&self, dtype: DType, head_dim: usize, pieces: &[Piece], slots: Option<usize>) -> bool {
        let (heads, kv_heads, rows) = (6, 2, 3);
        let tokens = pieces.iter().map(|piece| piece.offset + piece.len).max().unwrap_or(0);
        let scale = 0.3;
        let held = kv_heads * head_dim * slots.map_or(tokens, |slots| rows * slots);
        let (q, k, v) = (values(tokens * heads * head_dim, dtype, 1), values(held, dtype, 2), values(held, dtype, 3));
        let queries = self.put(&q, [tokens, heads, head_dim], dtype);
        let found = match slots {
            Some(slots) => {
                let put = |values: &[f64]| self.put(values, [rows, kv_heads, slots, head_dim], dtype);
                cached_attention(&queries, &put(&k), &put(&v), pieces, scale)
            }
            None => {
                let put = |values: &[f64]| self.put(values, [tokens, kv_heads, head_dim], dtype);
                fresh_attention(&queries, &put(&k), &put(&v), pieces, scale)
            }
        };
        let Some(found) = found else { return false };
        let mut expected = Vec::new();
        for piece in pieces {
            for (query, head) in (0..piece.len).flat_map(|query| (0..heads).map(move |head| (query, head))) {
                let kv_head = head / (heads / kv_heads);
                let at = |slot: usize| match slots {
                    Some(slots) => ((piece.row * kv_heads + kv_head) * slots + slot) * head_dim,
                    None => ((piece.offset + slot) * kv_heads + kv_head) * head_dim,
                };
                let query_values = &q[((piece.offset + query) * heads + head) * head_dim..][..head_dim];
                let weights: Vec<f64> = piece
                    .visible(query)
                    .map(|slot| (product(&k[at(slot)..][..head_dim], query_values)[0] * scale).exp())
                    .collect();
                let sum: f64 = weights.iter().sum();
                expected.extend((0..head_dim).map(|dimension| {
                    let of = |(slot, weight): (usize, &f64)| weight / sum * v[at(slot) + dimension];
                    weights.iter().enumerate().map(of).sum::<f64>()
                }));
            }
        }
        let what = format!("{dtype:?} attention of {} pieces, heads of {head_dim}, cached {slots:?}", pieces.len());
        assert_close(&what, &self.get(&found), &expected, bound(dtype));
        true
    }
}
