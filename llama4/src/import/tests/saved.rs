use std::fs;

use burn::tensor::DType;
use serde_json::json;

use super::files::{Checkpoint, tensors_of};
use super::*;
use crate::import::{RecordPrecision, WeightsForm, save_hf, save_record};

#[test]
fn a_model_saved_in_single_precision_comes_back_bit_by_bit() {
    for name in ["p1_scout_like", "p2_maverick_like", "p5_ropescaled_bias_tied_gqa4"] {
        let model = load(golden(name)).unwrap().model;
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("new/folder");
        save_hf(&model, &dir, DType::F32).unwrap();
        let saved = load(&*dir).unwrap();
        assert_eq!(saved.report.form, WeightsForm::Safetensors);
        assert_same(&model, &saved.model);
        assert_eq!(saved.model.config().norm_dtype, Some(DType::F32));
        // Nothing unfinished is left.
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
    }
}

#[test]
fn a_file_of_bf16_is_saved_as_it_was() {
    let golden = golden("p1_scout_like");
    let model = load(&*golden).unwrap().model;
    let dir = tempfile::tempdir().unwrap();
    save_hf(&model, dir.path(), DType::BF16).unwrap();
    let sorted = |dir: &Path| {
        let mut tensors = tensors_of(&dir.join("model.safetensors"));
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        tensors
    };
    let (before, after) = (sorted(&golden), sorted(dir.path()));
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((&before.name, &before.dtype, &before.shape), (&after.name, &after.dtype, &after.shape));
        assert!(before.bytes == after.bytes, "{} differs", before.name);
    }
    let mut config = load(dir.path()).unwrap().model.config().clone();
    assert_eq!(config.norm_dtype, Some(DType::BF16));
    config.norm_dtype = model.config().norm_dtype;
    assert_eq!(&config, model.config());
}

#[test]
fn other_readers_take_what_is_saved() {
    let model = load(golden("p2_maverick_like")).unwrap().model;
    let dir = tempfile::tempdir().unwrap();
    save_hf(&model, dir.path(), DType::F16).unwrap();
    let bytes = fs::read(dir.path().join("model.safetensors")).unwrap();
    let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let experts = read.tensor("model.layers.1.feed_forward.experts.down_proj").unwrap();
    assert_eq!((experts.dtype(), experts.shape()), (safetensors::Dtype::F16, &[8, 32, 64][..]));
}

#[test]
fn what_a_type_cannot_hold_is_not_saved_as_something_else() {
    let mut checkpoint = Checkpoint::of("p2_maverick_like");
    let norm = "model.layers.1.input_layernorm.weight";
    checkpoint.tensor(norm).bytes[..4].copy_from_slice(&1e5_f32.to_le_bytes());
    let checkpoint = checkpoint.written();
    let model = load(checkpoint.path()).unwrap().model;
    let dir = tempfile::tempdir().unwrap();
    let error = save_hf(&model, dir.path(), DType::F16).unwrap_err().to_string();
    assert!(error.contains(norm) && error.contains("65504"), "{error}");
    let error = save_record(&model, &dir.path().join("model.mpk"), RecordPrecision::Half).unwrap_err().to_string();
    assert!(error.contains(norm) && error.contains("65504"), "{error}");
    let error = save_hf(&model, dir.path(), DType::I32).unwrap_err().to_string();
    assert!(error.contains("I32"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    save_hf(&model, dir.path(), DType::BF16).unwrap();
}

#[test]
fn records_come_back_in_both_formats_and_precisions() {
    for name in ["p1_scout_like", "p2_maverick_like", "p5_ropescaled_bias_tied_gqa4"] {
        let model = load(golden(name)).unwrap().model;
        for file in ["model.mpk", "model.bin"] {
            let dir = tempfile::tempdir().unwrap();
            save_record(&model, &dir.path().join(file), RecordPrecision::Full).unwrap();
            let full = load(dir.path()).unwrap();
            assert_eq!(full.report.form, WeightsForm::BurnRecord);
            assert_same(&model, &full.model);
            let large = full.report.bytes;

            save_record(&model, &dir.path().join(file), RecordPrecision::Half).unwrap();
            let half = load(dir.path()).unwrap();
            assert!(half.report.bytes < large * 6 / 10, "{} of {large}", half.report.bytes);
            for ((name, exact), (_, rounded)) in parameters(&model).iter().zip(parameters(&half.model)) {
                for (exact, rounded) in exact.iter::<f32>().zip(rounded.iter::<f32>()) {
                    assert_eq!(half::f16::from_f32(exact).to_f32(), rounded, "{name}");
                }
            }
        }
    }
}

#[test]
fn a_record_of_another_model_is_refused_before_it_is_taken_over() {
    for (key, value, part) in [
        ("num_hidden_layers", json!(3), "model.layers.3."),
        ("num_hidden_layers", json!(5), "model.layers.4."),
        ("moe_layers", json!([0, 1, 2]), "model.layers.3.feed_forward.gate_proj.weight"),
        ("tie_word_embeddings", json!(true), "lm_head.weight"),
        ("attention_bias", json!(true), "q_proj.bias"),
        ("vocab_size", json!(511), "[511, 64]"),
        ("num_local_experts", json!(3), "[4, 64, 48]"),
    ] {
        let model = load(golden("p1_scout_like")).unwrap().model;
        for file in ["model.mpk", "model.bin"] {
            let saved = tempfile::tempdir().unwrap();
            save_record(&model, &saved.path().join(file), RecordPrecision::Full).unwrap();
            let checkpoint = Checkpoint::of("p1_scout_like").configured(key, value.clone());
            fs::copy(saved.path().join(file), checkpoint.file(file)).unwrap();
            let error = error_of(checkpoint.path());
            assert!(error.contains(part) && error.contains(file), "{key} {value}: {error}");
        }
    }
    let model = load(golden("p1_scout_like")).unwrap().model;
    let error = save_record(&model, Path::new("model.txt"), RecordPrecision::Full).unwrap_err().to_string();
    assert!(error.contains("model.txt"), "{error}");
}

#[test]
fn a_damaged_record_is_an_error() {
    let model = load(golden("p1_scout_like")).unwrap().model;
    for file in ["model.mpk", "model.bin"] {
        let checkpoint = Checkpoint::of("p1_scout_like");
        save_record(&model, &checkpoint.file(file), RecordPrecision::Half).unwrap();
        let whole = fs::read(checkpoint.file(file)).unwrap();
        // The last bytes hold no weights, and burn does not ask for all of them.
        for len in [0, 1, 100, whole.len() / 2, whole.len() - 16] {
            fs::write(checkpoint.file(file), &whole[..len]).unwrap();
            let error = error_of(checkpoint.path());
            assert!(error.contains(file) && error.contains("damaged"), "{file} {len}: {error}");
        }
    }
}
