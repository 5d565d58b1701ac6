//! Kernels that nothing else reaches on the small shapes of the property tests, against sums in `f64`. Where a device has not what they
//! need, there is nothing to test: they say so and leave the work to others.

mod prefill;

use std::io::Write;
use std::panic::catch_unwind;

use burn::tensor::{DType, Shape, bf16, f16};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::features::TypeUsage;

use super::PackedRows;
use super::row_product::{WITHOUT_CORES, row_product};
use super::{
    Chosen, Heads, Norm, Places, Rows, Steps, Weights, argmax, decode_attention, down, gated, normed_rows,
    router_logits, thin_product, unpack as unpack_rows,
};
use crate::quant::{Packing, pack, unpack};

/// The same tests on each runtime of the build.
macro_rules! on_runtime {
    ($module:ident, $runtime:ty, $types:expr) => {
        mod $module {
            use super::*;

            const BENCH: Bench<$runtime> = Bench { device: std::marker::PhantomData };
            const TYPES: &[DType] = $types;
            const PACKINGS: [Packing; 2] = [Packing::Q4, Packing::Q8];

            #[test]
            fn products_of_few_rows_agree() {
                if !BENCH.is_ready("products_of_few_rows_agree") {
                    return;
                }
                for dtype in BENCH.types(TYPES) {
                    PACKINGS.into_iter().for_each(|packing| BENCH.rows_agree(packing, dtype));
                    BENCH.thin_products_agree(dtype);
                }
            }

            #[test]
            fn halves_are_their_floats() {
                if BENCH.is_ready("halves_are_their_floats") {
                    BENCH.halves_are_their_floats();
                }
            }

            #[test]
            fn products_of_a_token_agree() {
                if !BENCH.is_ready("products_of_a_token_agree") {
                    return;
                }
                let types = BENCH.types(TYPES);
                for (dtype, without_cores) in types.into_iter().flat_map(|dtype| [(dtype, false), (dtype, true)]) {
                    WITHOUT_CORES.set(without_cores);
                    PACKINGS.into_iter().for_each(|packing| BENCH.fused_products_agree(packing, dtype));
                }
            }

            #[test]
            fn attention_of_new_tokens_agrees() {
                if !BENCH.is_ready("attention_of_new_tokens_agrees") {
                    return;
                }
                for dtype in BENCH.types(TYPES) {
                    for (pasts, chunk, rotated) in [
                        (&[0][..], None, true),
                        (&[5], None, false),
                        (&[63, 2, 40], Some(32), true),
                        (&[700, 1, 699], None, false),
                    ] {
                        BENCH.attention_agrees(dtype, pasts, chunk, rotated);
                    }
                }
            }

            #[test]
            fn argmax_agrees() {
                if BENCH.is_ready("argmax_agrees") {
                    BENCH.argmax_agrees();
                }
            }

            #[test]
            fn rows_are_sorted_by_their_experts() {
                if BENCH.is_ready("rows_are_sorted_by_their_experts") {
                    BENCH.sorts();
                }
            }

            #[test]
            fn tiles_of_other_devices_agree() {
                if BENCH.is_ready("tiles_of_other_devices_agree") {
                    BENCH.tiles_of_other_devices_agree(&BENCH.types(TYPES));
                }
            }

            #[test]
            fn prompts_agree() {
                if BENCH.is_ready("prompts_agree") {
                    BENCH.prefill_agrees(&BENCH.types(TYPES));
                }
            }
        }
    };
}

#[cfg(feature = "wgpu")]
on_runtime!(wgpu, cubecl::wgpu::WgpuRuntime, &[DType::F32, DType::F16]);
#[cfg(feature = "cuda")]
on_runtime!(cuda, cubecl::cuda::CudaRuntime, &[DType::F32, DType::BF16, DType::F16]);

/// Set where tests that need an adapter must not be skipped, as in the tests of the workspace.
const REQUIRED: &str = "LLAMA4_REQUIRE_ADAPTER";

const EPSILON: f64 = 1e-5;

/// Values that `dtype` holds exactly, from a seed.
fn values(count: usize, dtype: DType, seed: u64) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f64 / f64::from(1 << 24) - 0.5) * 3.0
    };
    (0..count).map(|_| round(next(), dtype)).collect()
}

fn round(value: f64, dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => bf16::from_f64(value).to_f64(),
        DType::F16 => f16::from_f64(value).to_f64(),
        _ => f64::from(value as f32),
    }
}

/// The largest share of a result that one rounding to the type takes off, doubled.
fn bound(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 2.0 / 256.0,
        DType::F16 => 2.0 / 2048.0,
        _ => 1e-4,
    }
}

fn product(rows: &[f64], x: &[f64]) -> Vec<f64> {
    rows.chunks(x.len()).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
}

fn normed(x: &[f64], weight: &[f64], dtype: DType) -> Vec<f64> {
    let factor = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + EPSILON).sqrt();
    x.iter().zip(weight).map(|(x, weight)| round(round(x * factor, dtype) * weight, dtype)).collect()
}

#[track_caller]
fn assert_close(what: &str, found: &[f64], expected: &[f64], bound: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-9_f64, |most, value| most.max(value.abs()));
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (found - expected).abs() / scale;
        assert!(off <= bound, "{what}: {found} instead of {expected} at {at}, off by {off:.1e} of {scale}");
    }
}

/// The runtime's first device.
struct Bench<R: CubeRuntime> {
    device: std::marker::PhantomData<R>,
}

impl<R: CubeRuntime> Bench<R> {
    /// Whether the device starts. Where it does not, a test says so past the runner's capture, or fails if that is asked for.
    fn is_ready(&self, test: &str) -> bool {
        let started = catch_unwind(|| R::client(&R::Device::default())).is_ok();
        if !started {
            assert!(std::env::var_os(REQUIRED).is_none(), "{test}: no adapter, and {REQUIRED} is set");
            let _ = writeln!(std::io::stderr(), "SKIPPED {test}: no adapter");
        }
        started
    }

    /// Those of some types that the device calculates with.
    #[allow(clippy::print_stderr, reason = "nobody should take what was not tested for a test that passed")]
    fn types(&self, types: &[DType]) -> Vec<DType> {
        let client = R::client(&R::Device::default());
        let has = |dtype: &DType| client.properties().type_usage((*dtype).into()).contains(TypeUsage::Arithmetic);
        types.iter().filter(|dtype| !has(dtype)).for_each(|dtype| eprintln!("not tested: no {dtype:?} on this device"));
        types.iter().copied().filter(has).collect()
    }

    fn tensor<const D: usize>(&self, bytes: &[u8], shape: [usize; D], dtype: DType) -> CubeTensor<R> {
        let device = R::Device::default();
        let client = R::client(&device);
        let handle = client.create_from_slice(bytes);
        CubeTensor::new_contiguous(client, device, Shape::new(shape), handle, dtype)
    }

    fn put<const D: usize>(&self, values: &[f64], shape: [usize; D], dtype: DType) -> CubeTensor<R> {
        let bytes: Vec<u8> = match dtype {
            DType::BF16 => values.iter().flat_map(|value| bf16::from_f64(*value).to_le_bytes()).collect(),
            DType::F16 => values.iter().flat_map(|value| f16::from_f64(*value).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect(),
        };
        self.tensor(&bytes, shape, dtype)
    }

    fn get(&self, tensor: &CubeTensor<R>) -> Vec<f64> {
        let bytes = tensor.client.read_one(tensor.handle.clone());
        match tensor.dtype {
            DType::BF16 => bytes.chunks(2).map(|pair| bf16::from_le_bytes([pair[0], pair[1]]).to_f64()).collect(),
            DType::F16 => bytes.chunks(2).map(|pair| f16::from_le_bytes([pair[0], pair[1]]).to_f64()).collect(),
            DType::U32 => bytes
                .chunks(4)
                .map(|four| f64::from(u32::from_le_bytes([four[0], four[1], four[2], four[3]])))
                .collect(),
            _ => bytes
                .chunks(4)
                .map(|four| f64::from(f32::from_le_bytes([four[0], four[1], four[2], four[3]])))
                .collect(),
        }
    }

    /// Random packed rows, and what they stand for.
    fn packed(&self, packing: Packing, rows: usize, columns: usize, seed: u64) -> (PackedRows<R>, Vec<f64>) {
        self.packed_of_size(packing, rows, columns, seed, 1.0)
    }

    /// Of values so many times as large.
    fn packed_of_size(
        &self,
        packing: Packing,
        rows: usize,
        columns: usize,
        seed: u64,
        size: f64,
    ) -> (PackedRows<R>, Vec<f64>) {
        let values = values(rows * columns, DType::F32, seed).into_iter();
        let floats: Vec<f32> = values.map(|value| (value * size) as f32).collect();
        let mut words = vec![0; rows * packing.words(columns)];
        let mut scales = vec![0; rows * packing.scales(columns)];
        pack(packing, &floats, &mut words, &mut scales).expect("finite values");
        let mut meant = vec![0.0; rows * columns];
        unpack(packing, &words, &scales, &mut meant);
        let words: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        // Rows are whole words of scales.
        let row = |scales: &[u16]| [scales, &[0; 2]].concat()[..scales.len().next_multiple_of(2)].to_vec();
        let pairs = scales.chunks(packing.scales(columns).max(1)).flat_map(row);
        let pairs: Vec<u8> = pairs.flat_map(u16::to_le_bytes).collect();
        let scale_words = packing.scale_words(columns);
        let scales = (scale_words > 0).then(|| self.tensor(&pairs, [rows, scale_words], DType::U32));
        let words = self.tensor(&words, [rows, packing.words(columns)], DType::U32);
        (PackedRows { packing, columns, words, scales }, meant.into_iter().map(f64::from).collect())
    }

    /// Few rows and as many as one pass takes, widths of whole steps and not, outputs of whole tiles and not.
    fn rows_agree(&self, packing: Packing, dtype: DType) {
        for (rows, outputs, columns) in
            [(1, 50, 64), (1, 1100, 256), (2, 70, 512), (3, 33, 1280), (8, 40, 256), (11, 20, 768)]
        {
            let (weight, meant) = self.packed(packing, outputs, columns, 1);
            let x = values(rows * columns, dtype, 2);
            let y = row_product(&self.put(&x, [rows, columns], dtype), &Weights::Packed(&weight), &[rows]);
            let expected: Vec<f64> = x.chunks(columns).flat_map(|x| product(&meant, x)).collect();
            let what = format!("{packing:?} {dtype:?} {rows} x {outputs} x {columns}");
            assert_close(&what, &self.get(&y.expect("whole vectors")), &expected, bound(dtype));
        }
    }

    /// More rows than a cube has, outputs of whole cubes and not.
    fn thin_products_agree(&self, dtype: DType) {
        for (rows, outputs, columns) in [(1, 16, 5120), (7, 3, 64), (130, 128, 1028)] {
            let (x, weight) = (values(rows * columns, dtype, 61), values(outputs * columns, dtype, 62));
            let y = thin_product(&self.put(&x, [rows, columns], dtype), &self.put(&weight, [outputs, columns], dtype));
            let expected: Vec<f64> = x.chunks(columns).flat_map(|x| product(&weight, x)).collect();
            let what = format!("few outputs, {dtype:?} {rows} x {outputs} x {columns}");
            assert_close(&what, &self.get(&y.expect("whole vectors")), &expected, 1e-4);
        }
    }

    /// Widths so small that a cube has one tile, and such that it has several; of `f32` such that two inputs have no room in a cube of some devices.
    fn fused_products_agree(&self, packing: Packing, dtype: DType) {
        let large = if dtype == DType::F32 { 4096 } else { 16_384 };
        for [columns, width, inner, experts] in [[768, 256, 256, 4], [1024, 2128, large, 2]] {
            self.fused_products_of_widths_agree(packing, dtype, [columns, width, inner, experts]);
        }
    }

    fn fused_products_of_widths_agree(
        &self,
        packing: Packing,
        dtype: DType,
        [columns, width, inner, experts]: [usize; 4],
    ) {
        // The residual stream of `f16` activations is `f32`.
        let stream = if dtype == DType::F16 { DType::F32 } else { dtype };
        let bound = 1.5 * bound(dtype);
        let (x, weight) = (values(columns, stream, 3), values(columns, dtype, 4));
        let norm = Norm { weight: &self.put(&weight, [columns], dtype), epsilon: EPSILON };
        let stream_x = self.put(&x, [1, columns], stream);
        let unrounded = normed(&x, &weight, DType::F32);
        let x = normed(&x, &weight, dtype);

        let (q, k, v) = (
            self.packed(packing, 192, columns, 5),
            self.packed(packing, 64, columns, 6),
            self.packed(packing, 128, columns, 7),
        );
        let parts = normed_rows(&stream_x, &norm, &[&q.0, &k.0, &v.0]).expect("whole steps");
        for (part, weight) in parts.iter().zip([q.1, k.1, v.1]) {
            assert_close("norm and rows", &self.get(part), &product(&weight, &x), bound);
        }

        let router = values(experts * columns, dtype, 8);
        let logits =
            router_logits(&stream_x, &norm, &self.put(&router, [experts, columns], dtype)).expect("whole vectors");
        let expected = product(&router, &x);
        let found = self.get(&logits);
        // NVIDIA's driver leaves the rounding of inputs out through Vulkan: they are as exact as the sums.
        let off = |expected: &[f64]| {
            found.iter().zip(expected).fold(0.0_f64, |most, (found, expected)| most.max((found - expected).abs()))
        };
        let unrounded = product(&router, &unrounded);
        let nearest = if off(&unrounded) < off(&expected) { &unrounded } else { &expected };
        assert_close("router", &found, nearest, 1e-4);
        let best = (0..experts).fold(0, |best, expert| if expected[expert] > expected[best] { expert } else { best });
        let score = 1.0 / (1.0 + (-expected[best]).exp());

        let (gate, up) = (self.packed(packing, width, columns, 9), self.packed(packing, width, columns, 10));
        let both = self.packed(packing, experts * 2 * width, columns, 11);
        let chosen = Chosen { experts: &both.0, logits: &logits };
        let y = gated(&stream_x, &norm, &gate.0, &up.0, Some(&chosen)).expect("like the rows");
        let swiglu = |gate: &f64, up: &f64| gate / (1.0 + (-gate).exp()) * up;
        let mut expected: Vec<f64> =
            product(&gate.1, &x).iter().zip(&product(&up.1, &x)).map(|(gate, up)| swiglu(gate, up)).collect();
        let of_expert = product(&both.1[best * 2 * width * columns..(best + 1) * 2 * width * columns], &x);
        let alone = gated(&stream_x, &norm, &gate.0, &up.0, None).expect("like the rows");
        assert_close("norm, gate and up without experts", &self.get(&alone), &expected, 2.0 * bound);
        expected.extend((0..width).map(|at| swiglu(&(score * of_expert[at]), &(score * of_expert[width + at]))));
        assert_close("norm, gate and up", &self.get(&y), &expected, 2.0 * bound);

        let (act, residual) = (values(2 * inner, dtype, 12), values(64, stream, 13));
        let (shared, routed) = (self.packed(packing, 64, inner, 14), self.packed(packing, experts * 64, inner, 15));
        let chosen = Chosen { experts: &routed.0, logits: &logits };
        let stream_residual = self.put(&residual, [1, 64], stream);
        let y = down(&self.put(&act, [1, 2 * inner], dtype), &shared.0, Some(&chosen), &stream_residual);
        let of_expert = product(&routed.1[best * 64 * inner..(best + 1) * 64 * inner], &act[inner..]);
        let of_shared = product(&shared.1, &act[..inner]);
        let expected: Vec<f64> = (0..64).map(|at| residual[at] + of_shared[at] + of_expert[at]).collect();
        assert_close("down and residual", &self.get(&y.expect("like the rows")), &expected, bound);
        let y = down(&self.put(&act[..inner], [1, inner], dtype), &shared.0, None, &stream_residual);
        let expected: Vec<f64> = (0..64).map(|at| residual[at] + of_shared[at]).collect();
        assert_close("output and residual", &self.get(&y.expect("like the rows")), &expected, bound);
    }

    /// The first of the largest, whichever units and cubes look at them.
    /// All there are, subnormal ones, infinities and what is no number too.
    fn halves_are_their_floats(&self) {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let weight = PackedRows {
            packing: Packing::F16,
            columns: 256,
            words: self.tensor(&bytes, [256, 128], DType::I32),
            scales: None,
        };
        let found = self.get(&unpack_rows(&weight, &Rows::Range(0..256), DType::F32).unwrap());
        for (bits, found) in found.into_iter().enumerate() {
            let expected = f16::from_bits(bits as u16).to_f64();
            let same = found == expected && found.is_sign_negative() == expected.is_sign_negative();
            assert!(same || found.is_nan() && expected.is_nan(), "{bits:#06x}: {found}, not {expected}");
        }
    }

    fn argmax_agrees(&self) {
        for (rows, columns) in [(1, 1), (3, 255), (2, 202_048)] {
            let mut x = values(rows * columns, DType::F32, 31);
            for (row, x) in x.chunks_mut(columns).enumerate() {
                let largest = columns * (row + 1) / (rows + 1);
                x[largest] = 9.0;
                x[columns - 1] = 9.0;
            }
            let found = argmax(&self.put(&x, [rows, columns], DType::F32)).expect("rows of f32");
            let bytes = found.client.read_one(found.handle.clone());
            let found: Vec<i32> =
                bytes.chunks(4).map(|four| i32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect();
            let expected: Vec<i32> = (0..rows).map(|row| (columns * (row + 1) / (rows + 1)) as i32).collect();
            assert_eq!(found, expected, "{rows} x {columns}");
        }
    }

    /// A token in each of the rows `1..`, behind so many others.
    fn attention_agrees(&self, dtype: DType, pasts: &[usize], chunk: Option<usize>, rotated: bool) {
        let (tokens, heads, kv_heads, width) = (pasts.len(), 10, 2, 128);
        let slots: Vec<usize> = pasts.iter().map(|past| chunk.map_or(*past, |chunk| past % chunk)).collect();
        let most = slots.iter().fold(0, |most, slot| most.max(slot + 1));
        let (rows, room, group, scale) = (tokens + 1, most + 8, heads / kv_heads, 0.0884);
        let queries = values(tokens * heads * width, dtype, 21);
        let new_keys = values(tokens * kv_heads * width, dtype, 24);
        let new_values = values(tokens * kv_heads * width, dtype, 25);
        let count = rows * kv_heads * room * width;
        let (keys, old_values) = (values(count, dtype, 22), values(count, dtype, 23));
        let angles: Vec<f64> = pasts
            .iter()
            .flat_map(|past| (0..width / 2).map(move |pair| *past as f64 * 0.01 * (pair + 1) as f64))
            .collect();
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f64> = angles.iter().map(|angle| f(*angle)).collect();
            self.put(&values, [tokens, 1, width / 2], DType::F32)
        };
        let (cos, sin) = (table(f64::cos), table(f64::sin));
        let temperatures: Vec<f64> = (0..tokens).map(|token| 1.25 + token as f64 / 4.0).collect();
        let temperature = self.put(&temperatures, [tokens, 1, 1], DType::F32);
        let shape = [rows, kv_heads, room, width];
        let (key_cache, value_cache) = (self.put(&keys, shape, dtype), self.put(&old_values, shape, dtype));
        let steps = Steps {
            rotation: rotated.then_some((&cos, &sin)),
            norm: rotated.then_some(EPSILON),
            temperature: (!rotated).then_some(&temperature),
        };
        let words: Vec<u8> = pasts
            .iter()
            .enumerate()
            .flat_map(|(token, past)| [token as i32 + 1, *past as i32])
            .flat_map(i32::to_le_bytes)
            .collect();
        let places = Places { table: &self.tensor(&words, [tokens, 2], DType::I32), chunk, most };
        let new = Heads {
            queries: &self.put(&queries, [tokens, heads, width], dtype),
            keys: &self.put(&new_keys, [tokens, kv_heads, width], dtype),
            values: &self.put(&new_values, [tokens, kv_heads, width], dtype),
        };
        let Some(found) = decode_attention(&new, &steps, scale, [&key_cache, &value_cache], &places) else { return };

        let prepared = |head: &[f64], token: usize, factor: f64| -> Vec<f64> {
            if !rotated {
                return head.iter().map(|value| round(value * factor, dtype)).collect();
            }
            let turned: Vec<f64> = head
                .chunks(2)
                .zip(&angles[token * width / 2..])
                .flat_map(|(pair, angle)| {
                    let (sin, cos) = angle.sin_cos();
                    [pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos]
                })
                .map(|value| round(value, dtype))
                .collect();
            normed(&turned, &vec![1.0; width], dtype)
        };
        let (mut expected, mut expected_keys) = (Vec::new(), keys.clone());
        for (token, &slot) in slots.iter().enumerate() {
            for query in 0..heads {
                let new_at = (token * kv_heads + query / group) * width;
                let base = ((token + 1) * kv_heads + query / group) * room * width;
                let q = prepared(&queries[(token * heads + query) * width..][..width], token, temperatures[token]);
                let new_key = prepared(&new_keys[new_at..][..width], token, 1.0);
                expected_keys[base + slot * width..][..width].copy_from_slice(&new_key);
                let at = |old: &[f64], new: &[f64], index: usize| {
                    if index == slot { new.to_vec() } else { old[base + index * width..][..width].to_vec() }
                };
                let scores: Vec<f64> =
                    (0..=slot).map(|index| scale * product(&at(&keys, &new_key, index), &q)[0]).collect();
                let most = scores.iter().fold(f64::MIN, |most, score| most.max(*score));
                let total: f64 = scores.iter().map(|score| (score - most).exp()).sum();
                let mut sum = vec![0.0; width];
                for (index, score) in scores.iter().enumerate() {
                    let value = at(&old_values, &new_values[new_at..][..width], index);
                    sum.iter_mut().zip(value).for_each(|(sum, value)| *sum += (score - most).exp() / total * value);
                }
                expected.extend(sum);
            }
        }
        let what = format!("attention {dtype:?} after {pasts:?}");
        assert_close(&what, &self.get(&found), &expected, 1.5 * bound(dtype));
        assert_close(&what, &self.get(&key_cache), &expected_keys, bound(dtype));
    }
}
