//! Weights packed while loading, and 8-bit floats.

use burn::tensor::{FloatDType, Tensor, TensorData};
use half::f16;

use super::files::{Checkpoint, RawTensor};
use super::*;
use crate::nn::{ForwardOptions, TokenBatch, WeightSlot};
use crate::ops::{unpack_rows_plain, with_exact_activations};
use crate::quant::{PackedTensor, Packing, Quantization, Weight, pack, unpack};

/// What a weight holds, as floats, and its packing.
fn values(slot: WeightSlot<'_, TestBackend>) -> (Option<Packing>, Vec<f32>) {
    let unpacked = |packed: &PackedTensor<TestBackend>| {
        (
            Some(packed.packing()),
            unpack_rows_plain(packed, 0..packed.rows(), FloatDType::F32).into_data().to_vec().unwrap(),
        )
    };
    match slot {
        WeightSlot::Projection(projection) => values(WeightSlot::Embedding(projection.weight_mut())),
        WeightSlot::Embedding(Weight::Float(weight)) => (None, weight.val().into_data().to_vec().unwrap()),
        WeightSlot::Experts(Weight::Float(weight)) => (None, weight.val().into_data().to_vec().unwrap()),
        WeightSlot::Embedding(Weight::Packed(packed)) | WeightSlot::Experts(Weight::Packed(packed)) => unpacked(packed),
        WeightSlot::Embedding(Weight::Split(_)) | WeightSlot::Experts(Weight::Split(_)) => {
            panic!("nothing was to be split")
        }
    }
}

#[test]
fn packed_weights_are_counted_once() {
    let mut model = load_packed(golden("p1_scout_like"), Quantization::q4()).model;
    let packed = model.weight_slots().iter_mut().filter_map(|(_, slot)| slot.packed().map(drop)).count();
    assert!(packed > 10);
    assert_eq!(model.packed_weights(), packed);
}

pub(in crate::import) fn weights(mut model: TestModel) -> Vec<(String, Option<Packing>, Vec<f32>)> {
    let slots = model.weight_slots().into_iter();
    slots
        .map(|(name, slot)| {
            let (packing, values) = values(slot);
            (name, packing, values)
        })
        .collect()
}

pub(super) fn load_packed(source: impl Into<ModelSource>, quantization: Quantization) -> Loaded<TestBackend> {
    let options = LoadOptions { quantization: Some(quantization), ..LoadOptions::default() };
    super::super::load(source, &options, &Default::default(), |_| ControlFlow::Continue(())).unwrap()
}

pub(super) fn logits(model: &TestModel) -> Vec<f32> {
    let ids: Vec<u32> = (0..24).map(|index| index * 7 % 64).collect();
    let mut cache = model.new_cache(1, ids.len());
    let batch = TokenBatch::single(&ids, &model.device());
    let output = model.forward(&batch, &mut cache, &ForwardOptions::all_logits()).unwrap();
    output.logits.unwrap().into_data().to_vec().unwrap()
}

#[test]
fn each_weight_is_packed_as_asked_and_holds_its_rows_rounded() {
    let (mut packed_weights, mut float_weights) = (0, 0);
    for name in ["p1_scout_like", "p2_maverick_like", "p7_fp8_experts"] {
        let float = weights(load(golden(name)).unwrap().model);
        let quantization = Quantization { weights: Packing::Q4, head: Packing::Q8, embedding: Packing::Bf16 };
        let packed = load_packed(golden(name), quantization);
        for ((name, _, float), (_, packing, found)) in float.iter().zip(weights(packed.model)) {
            let expected = match name.as_str() {
                "model.embed_tokens.weight" => Packing::Bf16,
                "lm_head.weight" => Packing::Q8,
                _ => Packing::Q4,
            };
            let Some(packing) = packing else {
                // Rows of 48 values.
                assert!(packed.report.kept_float.iter().any(|kept| kept.contains("down_proj")), "{name}");
                assert!(name.contains("down_proj") && *float == found, "{name}");
                float_weights += 1;
                continue;
            };
            packed_weights += 1;
            assert_eq!(packing, expected, "{name}");
            for (float, found) in float.chunks(32).zip(found.chunks(32)) {
                let (mut words, mut scales) = (vec![0; expected.words(32)], vec![0; expected.scales(32)]);
                pack(expected, float, &mut words, &mut scales).unwrap();
                let mut back = [0.0; 32];
                unpack(expected, &words, &scales, &mut back);
                assert_eq!(found, back, "{name}");
            }
        }
    }
    assert!(packed_weights > 70 && float_weights >= 8, "{packed_weights} {float_weights}");
}

#[test]
fn a_packed_model_computes_what_its_unpacked_weights_compute() {
    let quantization = Quantization { weights: Packing::Q8, head: Packing::Q4, embedding: Packing::Q8 };
    let packed = load_packed(golden("p1_scout_like"), quantization).model;
    let mut float = load(golden("p1_scout_like")).unwrap().model;
    let unpacked = weights(packed.clone());
    for ((_, slot), (_, _, values)) in float.weight_slots().into_iter().zip(unpacked) {
        let fill = |shape: &[usize]| TensorData::new(values.clone(), shape.to_vec());
        let slot = match slot {
            WeightSlot::Projection(projection) => WeightSlot::Embedding(projection.weight_mut()),
            slot => slot,
        };
        match slot {
            WeightSlot::Embedding(Weight::Float(weight)) => {
                let shape = weight.dims();
                let device = weight.val().device();
                *weight = burn::module::Param::from_tensor(Tensor::from_data(fill(&shape), &device));
            }
            WeightSlot::Experts(Weight::Float(weight)) => {
                let shape = weight.dims();
                let device = weight.val().device();
                *weight = burn::module::Param::from_tensor(Tensor::from_data(fill(&shape), &device));
            }
            _ => panic!("the golden is floats"),
        }
    }
    let packed = with_exact_activations(|| logits(&packed));
    for (packed, float) in packed.into_iter().zip(logits(&float)) {
        assert!((packed - float).abs() < 1e-3, "{packed} for {float}");
    }
}

#[test]
fn eight_bits_hardly_move_the_logits_and_four_bits_more() {
    let exact = logits(&load(golden("p1_scout_like")).unwrap().model);
    let error = |quantization| {
        let model = load_packed(golden("p1_scout_like"), quantization).model;
        // Rounding of activations turns some choices of experts in a model of random weights; what weights alone do is asked here.
        let found = with_exact_activations(|| logits(&model));
        let square: f32 = exact.iter().zip(&found).map(|(a, b)| (a - b) * (a - b)).sum();
        let all: f32 = exact.iter().map(|a| a * a).sum();
        (square / all).sqrt()
    };
    let (eight, four) = (error(Quantization::q8()), error(Quantization::q4()));
    assert!(eight > 0.0 && eight < 0.05, "{eight}");
    assert!(four > eight && four < 0.9, "{four}");
}

#[test]
fn a_bf16_embedding_of_a_bf16_checkpoint_loses_nothing() {
    let quantization = Quantization { weights: Packing::Bf16, head: Packing::Bf16, embedding: Packing::Bf16 };
    let float = weights(load(golden("p1_scout_like")).unwrap().model);
    for ((name, _, float), (_, packing, found)) in
        float.iter().zip(weights(load_packed(golden("p1_scout_like"), quantization).model))
    {
        assert_eq!(packing, Some(Packing::Bf16));
        assert_eq!(*float, found, "{name}");
    }
}

#[test]
fn values_that_cannot_be_packed_are_named() {
    let mut checkpoint = Checkpoint::of("p2_maverick_like");
    let name = "model.layers.1.feed_forward.experts.gate_up_proj";
    checkpoint.tensor(name).bytes[400..404].copy_from_slice(&f32::NAN.to_le_bytes());
    let checkpoint = checkpoint.written();
    let options = LoadOptions { quantization: Some(Quantization::q4()), ..LoadOptions::default() };
    let loaded = super::super::load::<TestBackend>(checkpoint.path(), &options, &Default::default(), |_| {
        ControlFlow::Continue(())
    });
    let error = loaded.unwrap_err().to_string();
    for part in ["model.layers.1.feed_forward.experts.groups.0.gate_up_proj", "not finite", "q4", "model.safetensors"] {
        assert!(error.contains(part), "{error}");
    }
}

const EXPERT: &str = "language_model.model.layers.1.feed_forward.experts.2.up_proj.weight";

#[test]
fn eight_bit_floats_are_their_value_times_the_scale_of_their_row() {
    let mut checkpoint = Checkpoint::of("p7_fp8_experts");
    let (rows, columns) = (32, 64);
    let bytes = checkpoint.tensor(EXPERT).bytes.clone();
    let scales: Vec<f32> = {
        let tensor = checkpoint.tensor(&format!("{EXPERT}_scale"));
        assert_eq!((tensor.dtype.as_str(), tensor.shape.as_slice()), ("BF16", &[rows, 1][..]));
        let values = tensor.bytes.as_chunks().0.iter();
        values.map(|&bytes| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)).collect()
    };
    // Sign, four bits of exponent, three of fraction, by their definition.
    let decode = |byte: u8| {
        let sign = if byte & 128 == 0 { 1.0 } else { -1.0 };
        let (exponent, fraction) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
        sign * if exponent == 0 { fraction * 2_f32.powi(-9) } else { (1.0 + fraction / 8.0) * 2_f32.powi(exponent - 7) }
    };
    let weights = weights(load(golden("p7_fp8_experts")).unwrap().model);
    let (_, _, gate_up) =
        weights.iter().find(|(name, ..)| name == "model.layers.1.feed_forward.experts.groups.0.gate_up_proj").unwrap();
    // Expert 2, its rows of up below those of gate.
    let up = &gate_up[(2 * 2 * rows + rows) * columns..][..rows * columns];
    for (index, (&byte, &found)) in bytes.iter().zip(up).enumerate() {
        assert_eq!(found, decode(byte) * scales[index / columns], "value {index}");
    }
}

#[track_caller]
fn assert_fp8_refused(change: impl FnOnce(&mut Checkpoint), parts: &[&str]) {
    let mut checkpoint = Checkpoint::of("p7_fp8_experts");
    change(&mut checkpoint);
    let error = error_of(checkpoint.written().path());
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn eight_bit_floats_with_something_wrong_are_refused() {
    let scale = format!("{EXPERT}_scale");
    let name = EXPERT.strip_prefix("language_model.").unwrap();
    assert_fp8_refused(|c| c.remove(&scale), &[name, "F8_E4M3", "has no", "weight_scale"]);
    assert_fp8_refused(
        |c| *c.tensor(&scale) = RawTensor::new(&scale, "BF16", &[31, 1], 2),
        &["up_proj.weight_scale", "[32, 1]", "[31, 1]"],
    );
    assert_fp8_refused(
        |c| *c.tensor(&scale) = RawTensor::new(&scale, "I32", &[32, 1], 4),
        &["up_proj.weight_scale", "I32", "not supported"],
    );
    assert_fp8_refused(|c| c.remove(EXPERT), &["1 parameter is missing", name]);
    assert_fp8_refused(|c| c.tensor(EXPERT).shape = vec![64, 32], &[name, "[32, 64]", "[64, 32]"]);
    // A norm has no business being quantised.
    let norm = "language_model.model.layers.0.input_layernorm.weight";
    assert_fp8_refused(
        |c| *c.tensor(norm) = RawTensor::new(norm, "F8_E4M3", &[64], 1),
        &["input_layernorm.weight", "F8_E4M3", "not supported"],
    );
}

#[test]
fn a_scale_for_a_whole_matrix_counts_for_each_row() {
    let mut checkpoint = Checkpoint::of("p7_fp8_experts");
    let name = format!("{EXPERT}_scale");
    *checkpoint.tensor(&name) = RawTensor {
        name: name.clone(),
        dtype: "F16".into(),
        shape: vec![1],
        bytes: f16::from_f32(0.5).to_le_bytes().to_vec(),
    };
    checkpoint.tensor(EXPERT).bytes.fill(0x38);
    let weights = weights(load(checkpoint.written().path()).unwrap().model);
    let (_, _, gate_up) =
        weights.iter().find(|(name, ..)| name == "model.layers.1.feed_forward.experts.groups.0.gate_up_proj").unwrap();
    assert_eq!(gate_up[(2 * 64 + 32) * 64..][..32 * 64], [0.5; 32 * 64]);
}
