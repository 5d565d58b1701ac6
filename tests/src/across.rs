//! Any backend against ndarray in `f32`: operations, layers and whole models on random shapes and values.
//!
//! Bounds are relative to the largest value of the expected tensor. In `f32` only the order of summation differs: `F32`. A type of
//! `p` bits of precision rounds by at most `u = 2⁻ᵖ` (`bf16`: 8 bits, `f16`: 11), and both sides start from values that the type holds, so
//!
//! - a product accumulated in `f32` is off by the rounding of its result, `u`, and the bound is `2 u`;
//! - attention rounds scores `s` (`u |s|` each, which moves their exponentials by `e^(2 u |s|) - 1`), weights and output: `e^(2 u s) - 1 + 3 u`;
//! - a layer rounds at most `ROUNDINGS` tensors on the way to the residual stream, so a model of `n` layers stays within
//!   `n · ROUNDINGS · u`.
//!
//! Quantised weights are the same words on both sides, so they are held to the bound of the activations' type.

use std::ops::ControlFlow;

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor, TensorData};
use burn_ndarray::NdArray;
use llama4::cache::{KvCache, Piece, Pieces, Span};
use llama4::import::{LoadOptions, load, save_hf};
use llama4::nn::{ForwardOptions, RotaryTable, TokenBatch, inverse_frequencies, rms_normalize, rotate};
use llama4::ops::{self, HeadSteps, NewHeads, Places};
use llama4::quant::{PackedData, PackedTensor, Packing, Quantization};
use llama4::{Llama4Config, Llama4ForCausalLM};
use proptest::prelude::*;

use crate::adapter::has;
use crate::models::{tiny, tiny_config};
use crate::properties::{check, host, random};

/// What everything is compared with.
pub(crate) type Reference = NdArray<f32>;

/// Largest relative difference that another order of summation may make in `f32`.
const F32: f64 = 1e-4;

/// Roundings of a layer, on the longest way to the residual stream: norm and its weight, query, rotation, QK norm, scores, weights,
/// attention, output, sum; norm and its weight, scaled input, gate, SiLU, product, down, sum.
pub(crate) const ROUNDINGS: f64 = 18.0;

/// Types of activations that are compared, and the most that one rounding to them takes off.
const TYPES: [(DType, f64); 3] = [(DType::F32, F32 / 2.0), (DType::BF16, 1.0 / 256.0), (DType::F16, 1.0 / 2048.0)];

/// Those of [`TYPES`] that the backend has.
pub(crate) fn types<B: Backend>(test: &'static str) -> impl Iterator<Item = (DType, f64)> {
    TYPES.into_iter().filter(move |(dtype, _)| has::<B>(*dtype, test))
}

/// Random values that `dtype` holds exactly.
pub(crate) fn values<const D: usize>(shape: [usize; D], dtype: DType, seed: u64) -> TensorData {
    random::<Reference, D>(shape, seed).into_data().convert_dtype(dtype).convert_dtype(DType::F32)
}

/// The same values on a backend, as `dtype`.
pub(crate) fn put<B: Backend, const D: usize>(data: &TensorData, dtype: DType) -> Tensor<B, D> {
    Tensor::from_data_dtype(data.clone().convert_dtype(dtype), &B::Device::default(), dtype)
}

pub(crate) fn within<B: Backend, const D: usize>(
    found: &Tensor<B, D>,
    expected: &Tensor<Reference, D>,
    bound: f64,
) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.dims(), expected.dims());
    let (found, expected) = (host(found), host(expected));
    let scale = expected.iter().fold(1e-6_f64, |most, value| most.max(f64::from(value.abs())));
    for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let off = f64::from((found - expected).abs()) / scale;
        prop_assert!(
            off <= bound,
            "{found} instead of {expected} at {at}: off by {off:.1e} of {scale}, bound {bound:.1e}"
        );
    }
    Ok(())
}

/// Rows times a weight, few rows and many, whole vectors and not.
pub fn linear_agrees<B: Backend>() {
    for (dtype, rounding) in types::<B>("linear_agrees") {
        check(24, (1..40_usize, 1..40_usize, 1..70_usize, any::<u64>()), |(rows, input, output, seed)| {
            for input in [input, 4 * input] {
                let x = values([rows, input], dtype, seed);
                let weight = values([output, input], dtype, seed ^ 1);
                let expected = ops::linear(put::<Reference, 2>(&x, DType::F32), put(&weight, DType::F32));
                let found = ops::linear(put::<B, 2>(&x, dtype), put(&weight, dtype));
                within(&found, &expected, 2.0 * rounding)?;
            }
            Ok(())
        });
    }
}

/// A weight narrower than its input, as the sums of the residual stream have it, is computed in the type of the input.
pub fn linear_takes_the_type_of_its_input<B: Backend>() {
    for (dtype, _) in types::<B>("linear_takes_the_type_of_its_input") {
        check(12, (1..40_usize, 1..20_usize, 1..40_usize, any::<u64>()), |(rows, input, output, seed)| {
            let x = values([rows, 4 * input], DType::F32, seed);
            let weight = values([output, 4 * input], dtype, seed ^ 1);
            let expected = ops::linear(put::<Reference, 2>(&x, DType::F32), put(&weight, DType::F32));
            let found = ops::linear(put::<B, 2>(&x, DType::F32), put(&weight, dtype));
            prop_assert_eq!(found.dtype(), DType::F32);
            within(&found, &expected, F32)
        });
    }
}

/// Sums of the residual stream, which 16 bits have no room for: of `f32`, though what is multiplied is not.
pub fn linear_keeps_its_sums<B: Backend>() {
    let counts = proptest::collection::vec(0..40_usize, 1..4);
    for (dtype, rounding) in types::<B>("linear_keeps_its_sums") {
        let inputs = (counts.clone(), 1..4_usize, 1..40_usize, any::<u64>(), prop::sample::select(Packing::ALL));
        check(12, inputs, |(counts, blocks, output, seed, packing)| {
            let (groups, rows, input) = (counts.len(), counts.iter().sum::<usize>(), 32 * blocks);
            prop_assume!(rows > 0);
            let x = values([rows, input], dtype, seed);
            let (x_reference, x) = (put::<Reference, 2>(&x, DType::F32), put::<B, 2>(&x, dtype));
            let sums = DType::F32.into();

            let weights = values([groups, output, input], dtype, seed ^ 1);
            let reference = put::<Reference, 3>(&weights, DType::F32);
            let (weights, first) = (put::<B, 3>(&weights, dtype), put::<B, 3>(&weights, dtype));
            let expected = ops::grouped_linear(x_reference.clone(), reference.clone(), &counts);
            let found = ops::grouped_linear_into(x.clone(), weights, &counts, sums);
            prop_assert_eq!(found.dtype(), DType::F32);
            within(&found, &expected, F32)?;
            let expected = ops::linear(x_reference.clone(), reference.narrow(0, 0, 1).reshape([output, input]));
            let found = ops::linear_into(x.clone(), first.narrow(0, 0, 1).reshape([output, input]), sums);
            within(&found, &expected, F32)?;

            let (on_reference, on_backend) = packed_pair::<B>(packing, [groups * output, input], seed);
            let expected = ops::packed_grouped_linear_plain(x_reference, &on_reference, &counts);
            let found = ops::with_exact_activations(|| ops::packed_grouped_linear_into(x, &on_backend, &counts, sums));
            prop_assert_eq!(found.dtype(), DType::F32);
            // Where many rows are multiplied, the weight is rounded.
            within(&found, &expected, 2.0 * rounding)
        });
    }
}

/// A weight for each group of rows.
pub fn grouped_linear_agrees<B: Backend>() {
    let counts = proptest::collection::vec(0..24_usize, 1..5);
    for (dtype, rounding) in types::<B>("grouped_linear_agrees") {
        check(16, (counts.clone(), 1..20_usize, 1..50_usize, any::<u64>()), |(counts, input, output, seed)| {
            let rows: usize = counts.iter().sum();
            prop_assume!(rows > 0);
            let x = values([rows, 4 * input], dtype, seed);
            let weights = values([counts.len(), output, 4 * input], dtype, seed ^ 1);
            let reference = put::<Reference, 3>(&weights, DType::F32);
            let expected = ops::grouped_linear(put(&x, DType::F32), reference, &counts);
            let found = ops::grouped_linear(put::<B, 2>(&x, dtype), put(&weights, dtype), &counts);
            within(&found, &expected, 2.0 * rounding)
        });
    }
}

/// The same random packed weight on the reference and on a backend.
pub(crate) fn packed_pair<B: Backend>(
    packing: Packing,
    shape: [usize; 2],
    seed: u64,
) -> (PackedTensor<Reference>, PackedTensor<B>) {
    let weight = host(&random::<Reference, 2>(shape, seed));
    let data = PackedData::pack(packing, shape[1], &weight).expect("finite values");
    let on_reference = PackedTensor::from_data(data.clone(), &Default::default());
    (on_reference, PackedTensor::from_data(data, &B::Device::default()))
}

/// Packed weights of every kind, in groups, looked up and unpacked.
pub fn packed_weights_agree<B: Backend>() {
    let counts = proptest::collection::vec(0..24_usize, 1..4);
    for (dtype, rounding) in types::<B>("packed_weights_agree") {
        let inputs = (counts.clone(), 1..4_usize, 1..50_usize, any::<u64>(), prop::sample::select(Packing::ALL));
        check(24, inputs, |(counts, blocks, output, seed, packing)| {
            let (groups, rows, input) = (counts.len(), counts.iter().sum::<usize>(), 32 * blocks);
            prop_assume!(rows > 0);
            let (on_reference, on_backend) = packed_pair::<B>(packing, [groups * output, input], seed);
            let x = values([rows, input], dtype, seed ^ 1);
            // What rounding of activations adds has a test of its own.
            let x_reference = put::<Reference, 2>(&x, DType::F32);
            let expected = ops::packed_grouped_linear_plain(x_reference, &on_reference, &counts);
            let x = put::<B, 2>(&x, dtype);
            let found = ops::with_exact_activations(|| ops::packed_grouped_linear(x, &on_backend, &counts));
            // Where many rows are multiplied, the weight is rounded too.
            within(&found, &expected, 3.0 * rounding)
        });
    }
}

/// Causal attention of pieces of different lengths.
pub fn attention_agrees<B: Backend>() {
    for (dtype, rounding) in types::<B>("attention_agrees") {
        let inputs = (proptest::collection::vec(1..30_usize, 1..4), 1..3_usize, 1..4_usize, any::<u64>());
        check(12, inputs, |(lengths, kv_heads, group, seed)| {
            let (tokens, width) = (lengths.iter().sum::<usize>(), 16);
            let mut offset = 0;
            let spans: Vec<Span> = lengths
                .iter()
                .enumerate()
                .map(|(row, &len)| {
                    offset += len;
                    Span { row, past: 0, offset: offset - len, len }
                })
                .collect();
            let pieces = Pieces::cut(&spans, None).fresh;
            let q = values([tokens, kv_heads * group, width], dtype, seed);
            let k = values([tokens, kv_heads, width], dtype, seed ^ 1);
            let v = values([tokens, kv_heads, width], dtype, seed ^ 2);
            let scale = 0.25;
            let at = |data: &TensorData| put::<Reference, 3>(data, DType::F32);
            let expected = ops::fresh_attention(&at(&q), &at(&k), &at(&v), &pieces, scale);
            let at = |data: &TensorData| put::<B, 3>(data, dtype);
            let found = ops::fresh_attention(&at(&q), &at(&k), &at(&v), &pieces, scale);
            // Scores are products of vectors of 16 normal values: hardly beyond 6 deviations of 4, a quarter of it.
            let score = 6.0;
            within(&found, &expected, (2.0 * rounding * score).exp_m1() + 3.0 * rounding)
        });
    }
}

/// The norm without weight, and the rotation.
pub fn norm_and_rotation_agree<B: Backend>() {
    for (dtype, rounding) in types::<B>("norm_and_rotation_agree") {
        check(12, (1..20_usize, 1..4_usize, 0..100_000_usize, any::<u64>()), |(tokens, heads, first, seed)| {
            let width = tiny_config().head_dim;
            let x = values([tokens, heads, width], dtype, seed);
            let (expected, found) = (put::<Reference, 3>(&x, DType::F32), put::<B, 3>(&x, dtype));
            within(&rms_normalize(found.clone(), 1e-5), &rms_normalize(expected.clone(), 1e-5), 2.0 * rounding)?;
            let positions: Vec<usize> = (first..first + tokens).collect();
            let frequencies = inverse_frequencies(&tiny_config());
            let table = RotaryTable::new(&frequencies, &positions, &Default::default());
            let on_backend = RotaryTable::new(&frequencies, &positions, &B::Device::default());
            within(&rotate(found.clone(), &on_backend), &rotate(expected.clone(), &table), 3.0 * rounding)?;
            // All steps of queries: three roundings, of values that the norm and the temperature leave about as large as they were.
            let temperature = values([tokens, 1, 1], DType::F32, seed ^ 1);
            let steps = HeadSteps {
                rotation: Some(table.tensors()),
                norm: Some(1e-5),
                temperature: Some(put::<Reference, 3>(&temperature, DType::F32)),
            };
            let expected = ops::position_heads(expected, &steps);
            let steps = HeadSteps {
                rotation: Some(on_backend.tensors()),
                norm: Some(1e-5),
                temperature: Some(put::<B, 3>(&temperature, DType::F32)),
            };
            within(&ops::position_heads(found, &steps), &expected, 5.0 * rounding)
        });
    }
}

/// The norm with its weight and the gate, of rows that are whole vectors and not.
pub fn norm_and_gate_agree<B: Backend>() {
    for (dtype, rounding) in types::<B>("norm_and_gate_agree") {
        check(12, (1..20_usize, 1..700_usize, any::<u64>()), |(rows, width, seed)| {
            for width in [width, 4 * width] {
                let x = values([rows, 2 * width], dtype, seed);
                let weight = values([2 * width], dtype, seed ^ 1);
                let (expected, found) = (put::<Reference, 2>(&x, DType::F32), put::<B, 2>(&x, dtype));
                let of_norm = ops::rms_norm(expected.clone(), put(&weight, DType::F32), 1e-5);
                within(&ops::rms_norm(found.clone(), put(&weight, dtype), 1e-5), &of_norm, 3.0 * rounding)?;
                let of_gate = ops::swiglu_halves(expected.clone());
                within(&ops::swiglu_halves(found.clone()), &of_gate, 4.0 * rounding)?;
                within(&ops::swiglu(found, put(&x, dtype)), &ops::swiglu(expected.clone(), expected), 4.0 * rounding)?;
            }
            Ok(())
        });
    }
}

/// The place of the largest value.
pub fn argmax_agrees<B: Backend>() {
    check(12, (1..6_usize, 1..9000_usize, any::<u64>()), |(rows, columns, seed)| {
        let x = values([rows, columns], DType::F32, seed);
        let expected: Vec<i64> = put::<Reference, 2>(&x, DType::F32).argmax(1).into_data().iter::<i64>().collect();
        let found: Vec<i64> = ops::argmax(put::<B, 2>(&x, DType::F32)).into_data().iter::<i64>().collect();
        prop_assert_eq!(found, expected);
        Ok(())
    });
}

/// One new token in several rows of a cache, whose slots are written on the way.
pub fn decode_attention_agrees<B: Backend>() {
    for (dtype, rounding) in types::<B>("decode_attention_agrees") {
        let inputs =
            (proptest::collection::vec(0..40_usize, 1..4), 1..3_usize, 1..4_usize, any::<bool>(), any::<u64>());
        check(12, inputs, |(pasts, kv_heads, group, rope, seed)| {
            let config = Llama4Config {
                num_attention_heads: kv_heads * group,
                num_key_value_heads: kv_heads,
                head_dim: 32,
                ..tiny_config()
            };
            let drawn = NewTokens::draw(&config, &pasts, dtype, seed);
            let found = drawn.decode::<B>(&config, rope, dtype);
            let expected = drawn.decode::<Reference>(&config, rope, DType::F32);
            // Queries and keys are rounded up to three times before their products, which are sums of 32; then as any attention.
            let (score, roundings) = (6.0, 8.0);
            for (found, expected) in found.iter().zip(&expected) {
                within(found, expected, (roundings * rounding * score).exp_m1() + 3.0 * rounding)?;
            }
            Ok(())
        });
    }
}

/// One new token for each row of a cache, and what the rows hold before it.
struct NewTokens {
    pasts: Vec<usize>,
    queries: TensorData,
    keys: TensorData,
    values: TensorData,
    temperature: TensorData,
    /// Keys and values of each row, `[past, kv_heads, head_dim]`.
    held: Vec<[TensorData; 2]>,
}

impl NewTokens {
    fn draw(config: &Llama4Config, pasts: &[usize], dtype: DType, seed: u64) -> Self {
        let (heads, kv_heads, width) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
        let new = |heads, seed| values([pasts.len(), heads, width], dtype, seed);
        let held = |(row, past): (usize, &usize)| {
            [1, 2].map(|which| values([(*past).max(1), kv_heads, width], dtype, seed ^ (10 * row as u64 + which)))
        };
        Self {
            pasts: pasts.to_vec(),
            queries: new(heads, seed ^ 1001),
            keys: new(kv_heads, seed ^ 1002),
            values: new(kv_heads, seed ^ 1003),
            temperature: values([pasts.len(), 1, 1], DType::F32, seed ^ 1004),
            held: pasts.iter().enumerate().map(held).collect(),
        }
    }

    /// The attention of the new tokens, then keys and values of the cache, on a layer with rotation and chunks or on one without.
    fn decode<B: Backend>(&self, config: &Llama4Config, rope: bool, dtype: DType) -> [Tensor<B, 3>; 3] {
        let (device, pasts) = (B::Device::default(), &self.pasts);
        let mut cache = KvCache::<B>::new(config, pasts.len(), 64, dtype, &device);
        let layer = &mut cache.layers_mut()[if rope { 0 } else { config.num_hidden_layers - 1 }];
        for (row, (&past, held)) in pasts.iter().zip(&self.held).enumerate() {
            // A chunk begins anew: as many as are in the last one.
            let kept = layer.chunk().map_or(past, |chunk| past % chunk);
            if kept > 0 {
                let [keys, values] = held.each_ref().map(|held| put::<B, 3>(held, dtype));
                layer.write(&[Piece { row, offset: 0, len: kept, first_slot: 0 }], &keys, &values);
            }
        }
        let spans: Vec<Span> =
            pasts.iter().enumerate().map(|(row, &past)| Span { row, past, offset: row, len: 1 }).collect();
        let table: Vec<i32> = spans.iter().flat_map(|span| [span.row as i32, span.past as i32]).collect();
        let table = Tensor::<B, 2, Int>::from_data(TensorData::new(table, [pasts.len(), 2]), &device);
        let new = NewHeads {
            queries: put::<B, 3>(&self.queries, dtype),
            keys: put::<B, 3>(&self.keys, dtype),
            values: put::<B, 3>(&self.values, dtype),
        };
        let rotary = RotaryTable::new(&inverse_frequencies(config), pasts, &device);
        let steps = HeadSteps {
            rotation: rope.then(|| rotary.tensors()),
            norm: rope.then_some(1e-5),
            temperature: (!rope).then(|| put::<B, 3>(&self.temperature, DType::F32)),
        };
        let attended = ops::decode_attention(new, &steps, layer, &Places { spans: &spans, table: &table }, 0.25);
        let flat = |tensor: &Tensor<B, 4>| {
            let [rows, kv_heads, slots, width] = tensor.dims();
            tensor.clone().reshape([rows * kv_heads, slots, width])
        };
        [attended, flat(layer.keys()), flat(layer.values())]
    }
}

/// Shapes of models, each with something that the others lack. All experts of a layer are chosen: between two that are nearly as good, a
/// rounding decides, and what follows has nothing in common any more.
fn shapes() -> Vec<Llama4Config> {
    let all = |config: Llama4Config| Llama4Config { num_experts_per_tok: config.num_local_experts, ..config };
    vec![
        all(tiny_config()),
        all(Llama4Config::tiny_dense_and_moe()),
        Llama4Config { attention_bias: true, tie_word_embeddings: true, ..Llama4Config::tiny_dense() },
    ]
}

/// The same model on the reference and on a backend, through a checkpoint.
fn pair<B: Backend>(
    config: &Llama4Config,
    dtype: DType,
    quantization: Option<Quantization>,
) -> (Llama4ForCausalLM<Reference>, Llama4ForCausalLM<B>) {
    let dir = tempfile::tempdir().expect("a folder");
    save_hf(&tiny::<Reference>(config, 7), dir.path(), dtype).expect("a checkpoint");
    let load_as = |dtype| LoadOptions { dtype: Some(dtype), quantization, ..LoadOptions::default() };
    let go_on = |_: llama4::import::LoadProgress<'_>| ControlFlow::Continue(());
    let reference = load::<Reference>(dir.path(), &load_as(DType::F32), &Default::default(), go_on);
    let model = load::<B>(dir.path(), &load_as(dtype), &B::Device::default(), go_on);
    (reference.expect("it loads").model, model.expect("it loads").model)
}

/// Every layer's attention, output and router logits, and the model's logits: a prompt in two pieces, then single steps.
pub fn layers_and_models_agree<B: Backend>() {
    for config in shapes() {
        for (dtype, rounding) in types::<B>("layers_and_models_agree") {
            let quantizations = [None, Some(Quantization::q8()), Some(Quantization::q4())];
            for quantization in quantizations {
                let (reference, model) = pair::<B>(&config, dtype, quantization);
                let bound = ROUNDINGS * rounding;
                check(2, proptest::collection::vec(0..config.vocab_size as u32, 3..20), |tokens| {
                    let (mut expected, mut found) = (Watched::new(&reference), Watched::new(&model));
                    let cut = tokens.len() / 2;
                    let pieces = [&tokens[..cut], &tokens[cut..tokens.len() - 1], &tokens[tokens.len() - 1..]];
                    for piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
                        let (expected, found) = (expected.forward(piece), found.forward(piece));
                        for (((layer, what), expected), (_, found)) in expected.into_iter().zip(found) {
                            within(&found, &expected, (1 + layer) as f64 * bound).map_err(|error| {
                                let place = format!("{what} of layer {layer}, {dtype:?}, {quantization:?}");
                                TestCaseError::fail(format!("{place}: {error}"))
                            })?;
                        }
                    }
                    Ok(())
                });
            }
        }
    }
}

/// A sequence that goes on step by step.
struct Watched<'a, B: Backend> {
    model: &'a Llama4ForCausalLM<B>,
    cache: KvCache<B>,
}

/// A layer, and what of it a tensor is.
type Place = (usize, &'static str);

impl<'a, B: Backend> Watched<'a, B> {
    fn new(model: &'a Llama4ForCausalLM<B>) -> Self {
        Self { model, cache: model.new_cache(1, 32) }
    }

    fn forward(&mut self, tokens: &[u32]) -> Vec<(Place, Tensor<B, 2>)> {
        let options = ForwardOptions { trace: true, ..ForwardOptions::all_logits() };
        let batch = TokenBatch::single(tokens, &self.model.device());
        // On the reference too: what rounding of activations adds has tests of its own.
        let output = llama4::ops::with_exact_activations(|| self.model.forward(&batch, &mut self.cache, &options));
        let output = output.expect("room");
        let trace = output.trace.expect("a trace");
        let mut values = Vec::new();
        for (layer, tensor) in trace.layers.into_iter().enumerate() {
            values.push(((layer, "attention"), trace.attention[layer].clone()));
            if let Some(routing) = &trace.routing[layer] {
                values.push(((layer, "router"), routing.logits.clone()));
            }
            values.push(((layer, "output"), tensor));
        }
        values.push(((self.model.config().num_hidden_layers, "logits"), output.logits.expect("all logits")));
        values
    }
}

/// An embedding's rows.
pub fn lookup_agrees<B: Backend>() {
    check(12, (1..40_usize, 1..20_usize, any::<u64>()), |(rows, tokens, seed)| {
        let data = values([rows, 32], DType::F32, seed);
        let ids: Vec<i32> = (0..tokens).map(|at| ((seed as usize).wrapping_add(at * 7) % rows) as i32).collect();
        let ids = TensorData::new(ids, [tokens]);
        let expected = put::<Reference, 2>(&data, DType::F32)
            .select(0, Tensor::<Reference, 1, Int>::from_data(ids.clone(), &Default::default()));
        let found =
            put::<B, 2>(&data, DType::F32).select(0, Tensor::<B, 1, Int>::from_data(ids, &B::Device::default()));
        within(&found, &expected, 0.0)
    });
}
