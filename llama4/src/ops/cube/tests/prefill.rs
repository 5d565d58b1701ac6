//! Kernels for many rows: those that need tensor cores, and the one that every device has.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;

use super::{Bench, assert_close, bound, product, round, values};
use crate::cache::Piece;
use crate::ops::cube::staged_product::staged_product;
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

/// The same, of widths that are whole blocks and no more.
const STAGED: [(&[usize], usize, usize); 5] = [
    (&[130], 261, 512),
    (&[21], 130, 96),
    (&[0, 130, 0, 70], 72, 256),
    (&[3, 0, 17, 1], 5, 64),
    (&[129, 300], 128, 32),
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
            if !STAGED.iter().all(|&(counts, outputs, columns)| self.stages_agree(dtype, counts, outputs, columns)) {
                eprintln!(
                    "not tested: products through shared memory in {dtype:?}, which burn's are quicker than here"
                );
            }
            self.blocks_agree(dtype);
        }
    }

    /// With sums of the type of `x`, and with sums in `f32`. Whether there is a kernel.
    fn tiles_agree(&self, dtype: DType, counts: &[usize], outputs: usize, columns: usize) -> bool {
        let packings = [Packing::Q4, Packing::Q8];
        [dtype, DType::F32].into_iter().all(|sums| {
            let shape = [outputs, columns];
            self.products_agree(dtype, counts, shape, &[dtype], &packings, 1.0, |x, weights, counts| {
                tile_product(x, weights, counts, sums)
            })
        })
    }

    /// The same of the kernel that every device has for `f32`, and some for 16 bits.
    fn stages_agree(&self, dtype: DType, counts: &[usize], outputs: usize, columns: usize) -> bool {
        // Of weights a thousandth as large, scales are no normal numbers of `f16`.
        for (sums, size) in [(dtype, 1.0), (DType::F32, 1.0), (DType::F32, 1e-3)] {
            let shape = [outputs, columns];
            let floats = [dtype, DType::F32];
            let there = self.products_agree(dtype, counts, shape, &floats, Packing::ALL, size, |x, weights, counts| {
                staged_product(x, weights, counts, sums)
            });
            assert!(there || dtype != DType::F32, "{counts:?} x {outputs} x {columns}: whole blocks");
            if !there {
                return false;
            }
        }
        true
    }

    /// Weights of floats and packed ones, of some size. Whether there is a kernel.
    #[allow(clippy::too_many_arguments, reason = "what a product depends on")]
    fn products_agree(
        &self,
        dtype: DType,
        counts: &[usize],
        [outputs, columns]: [usize; 2],
        floats: &[DType],
        packings: &[Packing],
        size: f64,
        multiply: impl Fn(&CubeTensor<R>, &Weights<'_, R>, &[usize]) -> Option<CubeTensor<R>>,
    ) -> bool {
        let rows = counts.iter().sum();
        let x = values(rows * columns, dtype, 2);
        let put = self.put(&x, [rows, columns], dtype);
        let weight_rows = outputs * counts.len();
        let floats: Vec<_> = floats
            .iter()
            .map(|&of_weight| {
                let meant: Vec<f64> = values(weight_rows * columns, DType::F32, 3);
                let meant: Vec<f64> = meant.into_iter().map(|value| round(value * size, of_weight)).collect();
                (self.put(&meant, [weight_rows, columns], of_weight), meant)
            })
            .collect();
        let floats = floats.iter().map(|(weight, meant)| (Weights::Float(weight), meant));
        let packed = packings.iter().map(|&packing| self.packed_of_size(packing, weight_rows, columns, 4, size));
        let packed: Vec<_> = packed.collect();
        let packed = packed.iter().map(|(weight, meant)| (Weights::Packed(weight), meant));
        for (number, (weight, meant)) in floats.chain(packed).enumerate() {
            let Some(y) = multiply(&put, &weight, counts) else { return false };
            let groups = counts.iter().enumerate().flat_map(|(group, count)| std::iter::repeat_n(group, *count));
            let expected: Vec<f64> = groups
                .zip(x.chunks(columns))
                .flat_map(|(group, x)| product(&meant[group * outputs * columns..][..outputs * columns], x))
                .collect();
            let what = format!("weight {number} {dtype:?} {counts:?} x {outputs} x {columns}, {:?}", y.dtype);
            // Tensor cores have weights rounded to the type of `x`.
            assert_close(&what, &self.get(&y), &expected, bound(dtype));
        }
        true
    }

    fn blocks_agree(&self, dtype: DType) {
        let piece = |row, offset, len, first_slot| Piece { row, offset, len, first_slot };
        let few = [piece(2, 1, 3, 70), piece(0, 7, 16, 3), piece(1, 30, 1, 99)];
        let more = [piece(2, 1, 33, 70), piece(0, 40, 64, 3), piece(1, 105, 7, 140)];
        let many = [piece(0, 0, 200, 0), piece(1, 203, 65, 0), piece(2, 270, 1, 0)];
        for head_dim in [32, 64, 96, 128] {
            [&few, &more].into_iter().for_each(|pieces| self.attends(dtype, head_dim, pieces, Some(150)));
            self.attends(dtype, head_dim, &many, None);
        }
    }

    /// Over a cache of so many slots a row, or over the tokens' own keys.
    fn attends(&self, dtype: DType, head_dim: usize, pieces: &[Piece], slots: Option<usize>) {
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
        let found = found.expect("whole vectors");
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
    }
}
