//! Packed weights on any backend.

use std::ops::ControlFlow;

use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Int, Tensor};
use llama4::import::{LoadOptions, load};
use llama4::nn::{ForwardOptions, Llama4ForCausalLM, TokenBatch};
use llama4::ops;
use llama4::quant::{PackedData, PackedTensor, Packing, Quantization, unpack};
use proptest::prelude::*;

use crate::golden::Golden;
use crate::properties::{check, close, host, random};

/// A random packed weight, and what its rows hold.
fn weight<B: Backend>(packing: Packing, rows: usize, columns: usize, seed: u64) -> (PackedTensor<B>, Vec<f32>) {
    let values = host(&random::<B, 2>([rows, columns], seed));
    let mut expected = Vec::new();
    for values in values.chunks(columns) {
        let (mut words, mut scales) = (vec![0; packing.words(columns)], vec![0; packing.scales(columns)]);
        llama4::quant::pack(packing, values, &mut words, &mut scales).expect("finite values");
        let mut row = vec![0.0; columns];
        unpack(packing, &words, &scales, &mut row);
        expected.extend(row);
    }
    let data = PackedData::pack(packing, columns, &values).expect("finite values");
    (PackedTensor::from_data(data, &B::Device::default()), expected)
}

fn packing() -> impl Strategy<Value = Packing> {
    prop::sample::select(Packing::ALL)
}

/// What a product can be off by where each activation is rounded: to 127 steps either way, block by block, or for `bf16` to eight bits.
fn rounding_of_activations(packing: Packing, x: &[f32], weight: &[f32]) -> f32 {
    if packing == Packing::Bf16 {
        return x.iter().zip(weight).map(|(x, weight)| (x * weight).abs()).sum::<f32>() / 512.0;
    }
    let of_block = |(x, weight): (&[f32], &[f32])| {
        let step = x.iter().fold(0.0_f32, |largest, x| largest.max(x.abs())) / 127.0;
        0.5001 * step * weight.iter().map(|weight| weight.abs()).sum::<f32>()
    };
    x.chunks(32).zip(weight.chunks(32)).map(of_block).sum()
}

/// The packed product against unpacking and multiplying, with any number of rows a group.
pub fn packed_linear_equals_its_definition<B: Backend>() {
    let counts = proptest::collection::vec(0..11_usize, 1..5);
    check(32, (packing(), counts, 1..4_usize, 1..50_usize, any::<u64>()), |(packing, counts, blocks, output, seed)| {
        let rows: usize = counts.iter().sum();
        prop_assume!(rows > 0);
        let x = random::<B, 2>([rows, 32 * blocks], seed);
        let (weights, values) = weight::<B>(packing, counts.len() * output, 32 * blocks, seed ^ 1);
        let found = host(&ops::packed_grouped_linear(x.clone(), &weights, &counts));
        let expected = host(&ops::packed_grouped_linear_plain(x.clone(), &weights, &counts));
        if packing == Packing::F16 || !ops::rounds_activations::<B>() {
            return close(&found, &expected);
        }
        let of_rows = counts.iter().enumerate().flat_map(|(group, &count)| std::iter::repeat_n(group, count));
        let rows = of_rows.zip(host(&x).chunks(32 * blocks).map(<[f32]>::to_vec).collect::<Vec<_>>());
        let mut outputs = found.iter().zip(&expected);
        for (group, x) in rows {
            for weight in values[group * output * 32 * blocks..].chunks(32 * blocks).take(output) {
                let (found, expected) = outputs.next().expect("an output of each row");
                let bound = rounding_of_activations(packing, &x, weight) + 1e-5 * (1.0 + expected.abs());
                prop_assert!(
                    (found - expected).abs() <= bound,
                    "{} is {} for {}, bound {}",
                    packing,
                    found,
                    expected,
                    bound
                );
            }
        }
        Ok(())
    });
}

/// Rows that are looked up, and those that are unpacked in a run, are exactly what was packed; by the kernels and by the definition.
pub fn packed_rows_are_unpacked_bit_for_bit<B: Backend>() {
    check(32, (packing(), 1..12_usize, 1..4_usize, any::<u64>()), |(packing, rows, blocks, seed)| {
        let columns = 32 * blocks;
        let (weight, expected) = weight::<B>(packing, rows, columns, seed);
        prop_assert_eq!(&host(&ops::unpack_rows(&weight, 0..rows, FloatDType::F32)), &expected);
        prop_assert_eq!(&host(&ops::unpack_rows_plain(&weight, 0..rows, FloatDType::F32)), &expected);
        let last = rows - 1;
        let ids = Tensor::<B, 1, Int>::from_ints([last as i32, 0], &B::Device::default());
        let looked_up = [&expected[last * columns..], &expected[..columns]].concat();
        prop_assert_eq!(&host(&ops::packed_select(&weight, ids.clone())), &looked_up);
        prop_assert_eq!(&host(&ops::packed_select_plain(&weight, ids)), &looked_up);
        Ok(())
    });
}

/// A golden in 8 bits gives nearly its logits: the correlation is what rounding of a random model leaves.
pub fn packed_goldens_stay_close<B: Backend>() {
    for name in ["p1_scout_like", "p2_maverick_like", "p7_fp8_experts"] {
        let golden = Golden::open(name);
        let options = LoadOptions { quantization: Some(Quantization::q8()), ..LoadOptions::default() };
        let loaded = load::<B>(golden.dir.as_path(), &options, &B::Device::default(), |_| ControlFlow::Continue(()));
        let model = loaded.expect("the golden loads").model;
        let prompt = golden.ids("prompt_ids");
        let mut cache = model.new_cache(1, prompt.len());
        let batch = TokenBatch::single(&prompt, &model.device());
        let options = ForwardOptions::all_logits();
        // Rounded activations turn close choices of experts in a model of random weights: what packing alone does is asked here.
        let output = ops::with_exact_activations(|| model.forward(&batch, &mut cache, &options));
        let output = output.expect("the prompt fits");
        let found = host(&output.logits.expect("all logits"));
        let (mut error, mut all) = (0.0, 0.0);
        for (found, expected) in found.iter().zip(golden.values("logits")) {
            error += (f64::from(*found) - expected).powi(2);
            all += expected.powi(2);
        }
        let relative = (error / all).sqrt();
        assert!(relative > 0.0 && relative < 0.08, "{name}: {relative}");
        if ops::rounds_activations::<B>() {
            rounding_moves_few_positions(name, &model, &prompt, &found);
        }
    }
}

/// With rounded activations most positions are nearly as without; those where another expert is chosen are not.
fn rounding_moves_few_positions<B: Backend>(name: &str, model: &Llama4ForCausalLM<B>, prompt: &[u32], exact: &[f32]) {
    let mut cache = model.new_cache(1, prompt.len());
    let batch = TokenBatch::single(prompt, &model.device());
    let output = model.forward(&batch, &mut cache, &ForwardOptions::all_logits()).expect("the prompt fits");
    let found = host(&output.logits.expect("all logits"));
    let width = exact.len() / prompt.len();
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>().sqrt();
    let mut errors: Vec<f32> = found
        .chunks(width)
        .zip(exact.chunks(width))
        .map(|(a, b)| norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied()))
        .collect();
    errors.sort_by(f32::total_cmp);
    let median = errors[errors.len() / 2];
    assert!(median > 0.0 && median < 0.12, "{name}: half of the positions are off by {median} or more");
}
