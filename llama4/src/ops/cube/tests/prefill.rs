//! Kernels for many rows: those that need tensor cores, and the one that every device has.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;

use super::{Bench, assert_close, bound, product, round, values};
use crate::cache::Piece;
use crate::ops::cube::routed::sort;
use crate::ops::cube::row_tiles::{Groups, RoutedGroups};
use crate::ops::cube::staged_product::staged_product;
use crate::ops::cube::tile_product::{tile_product, tile_product_for};
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

/// Multiprocessors of devices whose tiles these products are given as well, which are too small for a large device to give them large tiles: these three have
/// tiles of all heights and widths, and all ways to share the depth.
const PROCESSORS: [usize; 3] = [2, 24, 64];

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
            self.products_agree(dtype, sums, counts, shape, &[dtype], &packings, 1.0, tile_product)
        })
    }

    /// With the tiles of devices of other sizes; of one type, since all have the same.
    #[allow(clippy::print_stderr, reason = "nobody should take what was not tested for a test that passed")]
    pub(super) fn tiles_of_other_devices_agree(&self, types: &[DType]) {
        let agree = |dtype: DType| {
            PROCESSORS.into_iter().all(|processors| {
                PRODUCTS.into_iter().all(|(counts, outputs, columns)| {
                    let (shape, packings) = ([outputs, columns], [Packing::Q4, Packing::Q8]);
                    self.products_agree(
                        dtype,
                        dtype,
                        counts,
                        shape,
                        &[dtype],
                        &packings,
                        1.0,
                        |x, weight, groups, y| tile_product_for(processors, x, weight, groups, y),
                    )
                })
            })
        };
        if !types.iter().any(|&dtype| agree(dtype)) {
            eprintln!("not tested: products of many rows need tensor cores");
        }
    }

    /// The same of the kernel that every device has for `f32`, and some for 16 bits.
    fn stages_agree(&self, dtype: DType, counts: &[usize], outputs: usize, columns: usize) -> bool {
        // Of weights a thousandth as large, scales are no normal numbers of `f16`.
        for (sums, size) in [(dtype, 1.0), (DType::F32, 1.0), (DType::F32, 1e-3)] {
            let shape = [outputs, columns];
            let floats = [dtype, DType::F32];
            let there = self.products_agree(dtype, sums, counts, shape, &floats, Packing::ALL, size, staged_product);
            assert!(there || dtype != DType::F32, "{counts:?} x {outputs} x {columns}: whole blocks");
            if !there {
                return false;
            }
        }
        true
    }

    /// Weights of floats and packed ones, of some size, with rows that are counted here and on the device. Whether there is a kernel.
    #[allow(clippy::too_many_arguments, reason = "what a product depends on")]
    fn products_agree(
        &self,
        dtype: DType,
        sums: DType,
        counts: &[usize],
        [outputs, columns]: [usize; 2],
        floats: &[DType],
        packings: &[Packing],
        size: f64,
        multiply: impl Fn(&CubeTensor<R>, &Weights<'_, R>, &Groups<'_, R>, &CubeTensor<R>) -> Option<()>,
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
            let groups = counts.iter().enumerate().flat_map(|(group, count)| std::iter::repeat_n(group, *count));
            let expected: Vec<f64> = groups
                .zip(x.chunks(columns))
                .flat_map(|(group, x)| product(&meant[group * outputs * columns..][..outputs * columns], x))
                .collect();
            let on_device = self.tensor(
                bytemuck::cast_slice(&counts.iter().map(|&count| count as u32).collect::<Vec<_>>()),
                [counts.len()],
                DType::U32,
            );
            let routed = RoutedGroups { counts: &on_device, of_weight: 0..counts.len() };
            for groups in [Groups::Known(counts), Groups::Routed(routed)] {
                let y = self.put(&vec![f64::NAN; rows * outputs], [rows, outputs], sums);
                if multiply(&put, &weight, &groups, &y).is_none() {
                    return false;
                }
                let known = matches!(groups, Groups::Known(_));
                let what =
                    format!("weight {number} {dtype:?} {counts:?}, known {known}, x {outputs} x {columns}, {sums:?}");
                // Tensor cores have weights rounded to the type of `x`.
                assert_close(&what, &self.get(&y), &expected, bound(dtype));
            }
        }
        true
    }

    /// Of rows by their highest logit: more than units, more than a unit keeps bits of, ties, groups that nobody chooses, infinities.
    pub(super) fn sorts(&self) {
        for (rows, groups) in [(1, 1), (3, 5), (600, 16), (257, 128), (8500, 4)] {
            let mut logits = values(rows * groups, DType::F32, 9);
            // Values are few, so that many are equal.
            logits.iter_mut().for_each(|logit| *logit = (*logit * 4.0).round() + 0.0);
            logits.iter_mut().step_by(7).for_each(|logit| *logit = f64::NEG_INFINITY);
            let sorted = sort(&self.put(&logits, [rows, groups], DType::F32)).expect("a kernel");
            let highest = |row: &[f64]| (0..groups).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).expect("a group");
            let chosen: Vec<usize> = logits.chunks(groups).map(highest).collect();
            let mut order: Vec<usize> = (0..rows).collect();
            order.sort_by_key(|&row| chosen[row]);
            let count = |group| chosen.iter().filter(|&&chosen| chosen == group).count() as f64;
            assert_eq!(self.get(&sorted.counts), (0..groups).map(count).collect::<Vec<_>>());
            assert_eq!(self.get(&sorted.rows), order.iter().map(|&row| row as f64).collect::<Vec<_>>());
            let places = self.get(&sorted.places);
            assert!(order.iter().enumerate().all(|(place, &row)| places[row] == place as f64));
            let score = |(row, chosen): (&[f64], &usize)| 1.0 / (1.0 + (-row[*chosen]).exp());
            let expected: Vec<f64> = logits.chunks(groups).zip(&chosen).map(score).collect();
            assert_close("scores", &self.get(&sorted.scores), &expected, 1e-6);
        }
    }

    fn blocks_agree(&self, dtype: DType) {
        let piece = |row, offset, len, first_slot| Piece { row, offset, len, first_slot };
        // Enough keys that all places of steps in shared memory are used for a third time.
        let few = [piece(2, 1, 3, 70), piece(0, 7, 16, 3), piece(1, 30, 1, 399)];
        let more = [piece(2, 1, 33, 370), piece(0, 40, 64, 3), piece(1, 105, 7, 140)];
        let many = [piece(0, 0, 200, 0), piece(1, 203, 65, 0), piece(2, 270, 1, 0)];
        for head_dim in [32, 64, 96, 128] {
            [&few, &more].into_iter().for_each(|pieces| self.attends(dtype, head_dim, pieces, Some(420)));
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
