//! Conversion, and this library's own layout.

use std::cell::Cell;
use std::fs;

use serde_json::json;

use super::files::{Checkpoint as Written, RawTensor, safetensors, tensors_of};
use super::packed::{load_packed, weights};
use super::*;
use crate::Llama4Config;
use crate::import::{Checkpoint, ConvertOptions, ConvertReport, StoredDtype, Synth, WeightsForm};
use crate::nn::{ForwardOptions, TokenBatch};
use crate::quant::{Packing, Quantization};

fn convert(source: &Path, options: &ConvertOptions, folder: &Path) -> Result<ConvertReport, ImportError> {
    Checkpoint::open(source)?.convert(options, folder, |_| ControlFlow::Continue(()))
}

fn packed_as(quantization: Quantization) -> ConvertOptions {
    ConvertOptions { quantization: Some(quantization), ..ConvertOptions::default() }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn what_was_imported_loads_as_what_is_packed_while_loading() {
    let dir = tempfile::tempdir().unwrap();
    for (index, name) in
        ["p1_scout_like", "p2_maverick_like", "p5_ropescaled_bias_tied_gqa4", "p7_fp8_experts"].into_iter().enumerate()
    {
        for quantization in [Quantization::q8(), Quantization::q4()] {
            let folder = dir.path().join(format!("{index}-{}", quantization.weights));
            // Small files, so that there are several.
            let options = ConvertOptions { shard_bytes: 100_000, ..packed_as(quantization) };
            let report = convert(&golden(name), &options, &folder).unwrap();
            assert!(report.files > 4, "{report:?}");
            let written: u64 = names(&folder).iter().map(|name| fs::metadata(folder.join(name)).unwrap().len()).sum();
            assert_eq!(report.bytes_written, written);

            let imported = load(folder.as_path()).unwrap();
            assert_eq!(imported.report.form, WeightsForm::ShardedSafetensors);
            let direct = load_packed(golden(name), quantization).model;
            // The floats, and then what is packed.
            assert_same(&imported.model, &direct);
            assert_eq!(weights(imported.model), weights(direct), "{name}");
        }
    }
}

#[test]
fn without_quantisation_every_bit_stays() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["p1_scout_like", "p2_maverick_like", "p5_ropescaled_bias_tied_gqa4"] {
        let folder = dir.path().join(name);
        let report = convert(&golden(name), &ConvertOptions::default(), &folder).unwrap();
        assert!(report.dtypes.keys().all(|dtype| matches!(dtype, StoredDtype::Bf16 | StoredDtype::F32)));
        assert_same(&load(folder.as_path()).unwrap().model, &load(golden(name)).unwrap().model);
        // Experts are turned back, so that any reader of Hugging Face's form takes the folder.
        let source = tensors_of(&golden(name).join("model.safetensors"));
        for file in names(&folder).iter().filter(|name| name.ends_with(".safetensors")) {
            for tensor in tensors_of(&folder.join(file)) {
                let original = source.iter().find(|source| source.name == tensor.name).unwrap();
                assert_eq!((&tensor.dtype, &tensor.shape), (&original.dtype, &original.shape), "{}", tensor.name);
                assert!(tensor.bytes == original.bytes, "{}", tensor.name);
            }
        }
    }
}

#[test]
fn eight_bit_floats_become_stacked_experts_of_bf16() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    let report = convert(&golden("p7_fp8_experts"), &ConvertOptions::default(), &folder).unwrap();
    assert_eq!(report.dtypes.into_iter().collect::<Vec<_>>(), [(StoredDtype::Bf16, 45)]);
    let (found, exact) = (load(folder.as_path()).unwrap().model, load(golden("p7_fp8_experts")).unwrap().model);
    for ((name, _, found), (_, _, exact)) in weights(found).into_iter().zip(weights(exact)) {
        for (found, exact) in found.into_iter().zip(exact) {
            assert!((found - exact).abs() <= exact.abs() / 256.0, "{name}: {found} for {exact}");
        }
    }
}

#[test]
fn packing_twice_is_packing_once() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    convert(&golden("p1_scout_like"), &packed_as(Quantization::q4()), &first).unwrap();
    // Asked for or not, what is packed already is copied.
    for options in [ConvertOptions::default(), packed_as(Quantization::q4())] {
        let options = ConvertOptions { replace: true, ..options };
        let report = convert(&first, &options, &second).unwrap();
        assert!(report.requantised.is_empty(), "{report:?}");
        assert_eq!(fs::read(first.join("SHA256SUMS")).unwrap(), fs::read(second.join("SHA256SUMS")).unwrap());
    }
    // To 8 bits is another matter.
    let options = ConvertOptions { replace: true, ..packed_as(Quantization::q8()) };
    let report = convert(&first, &options, &second).unwrap();
    assert!(report.requantised[&StoredDtype::Packed(Packing::Q4)] > 10, "{report:?}");
}

#[test]
fn rows_that_are_not_whole_blocks_stay_floats_and_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (source, folder) = (dir.path().join("source"), dir.path().join("out"));
    let config = Llama4Config { hidden_size: 48, intermediate_size: 64, ..Llama4Config::tiny_moe() };
    let synth = Synth { config, dtype: burn::tensor::DType::BF16, seed: 3, shard_bytes: 1 << 30, replace: false };
    synth.write(&source, |_| ControlFlow::Continue(())).unwrap();
    let report = convert(&source, &packed_as(Quantization::q4()), &folder).unwrap();
    // Width 48: head and all that reads the residual stream. The products of the experts' width are packed.
    assert!(report.kept_float.contains(&"lm_head.weight".to_string()), "{report:?}");
    assert!(report.kept_float.contains(&"model.layers.0.feed_forward.experts.gate_up_proj".to_string()));
    assert!(!report.kept_float.iter().any(|name| name.ends_with("experts.down_proj")));
    let (imported, direct) = (load(folder.as_path()).unwrap(), load_packed(source.as_path(), Quantization::q4()));
    assert_eq!(direct.report.kept_float, report.kept_float);
    assert!(direct.report.to_string().contains("stay float"), "{}", direct.report);
    assert_eq!(weights(imported.model), weights(direct.model));
}

#[test]
fn the_same_seed_gives_the_same_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, seed| {
        let folder = dir.path().join(name);
        let config = Llama4Config::tiny_dense_and_moe();
        let synth = Synth { config, dtype: burn::tensor::DType::BF16, seed, shard_bytes: 50_000, replace: false };
        synth.write(&folder, |_| ControlFlow::Continue(())).unwrap();
        fs::read(folder.join("SHA256SUMS")).unwrap()
    };
    assert_eq!(write("a", 1), write("b", 1));
    assert_ne!(write("c", 2), write("d", 1));
    load(dir.path().join("a")).unwrap();
}

#[test]
fn random_weights_keep_activations_near_one_through_all_layers() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("deep");
    let config = Llama4Config {
        hidden_size: 64,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        attention_multiplier: 0.25,
        intermediate_size: 96,
        intermediate_size_mlp: 96,
        vocab_size: 128,
        num_local_experts: 4,
        bos_token_id: None,
        eos_token_ids: Vec::new(),
        pad_token_id: None,
        ..Llama4Config::scout()
    };
    let layers = config.num_hidden_layers;
    let synth = Synth { config, dtype: burn::tensor::DType::BF16, seed: 5, shard_bytes: 1 << 30, replace: false };
    synth.write(&folder, |_| ControlFlow::Continue(())).unwrap();
    let model = load(folder.as_path()).unwrap().model;
    let ids: Vec<u32> = (0..64).map(|index| index * 5 % 128).collect();
    let mut cache = model.new_cache(1, ids.len());
    let batch = TokenBatch::single(&ids, &model.device());
    let options = ForwardOptions { trace: true, ..ForwardOptions::all_logits() };
    let output = model.forward(&batch, &mut cache, &options).unwrap();
    let trace = output.trace.unwrap();
    assert_eq!((layers, trace.layers.len()), (48, 48));
    let mut chosen = [0; 4];
    for (index, hidden) in trace.layers.into_iter().enumerate() {
        let values: Vec<f32> = hidden.into_data().to_vec().unwrap();
        let size = (values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32).sqrt();
        assert!((0.5..4.0).contains(&size), "layer {index}: {size}");
    }
    for expert in trace.routing.iter().flatten().flat_map(|routing| &routing.experts) {
        chosen[*expert] += 1;
    }
    // Even shares would be 768.
    assert!(chosen.iter().all(|count| *count > 256), "{chosen:?}");
    let logits: Vec<f32> = output.logits.unwrap().into_data().to_vec().unwrap();
    assert!(logits.iter().all(|logit| logit.is_finite() && logit.abs() < 20.0));
}

#[test]
fn every_file_has_a_checksum_that_finds_a_changed_byte() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    convert(&golden("p1_scout_like"), &packed_as(Quantization::q4()), &folder).unwrap();
    let verify = || Checkpoint::open(folder.as_path()).unwrap().verify(|_| ControlFlow::Continue(()));
    assert_eq!(verify().unwrap(), Some(names(&folder).len() - 1));
    let shard = folder.join("model-00001-of-00001.safetensors");
    let mut bytes = fs::read(&shard).unwrap();
    let last = bytes.len() - 10;
    bytes[last] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let error = verify().unwrap_err().to_string();
    for part in ["model-00001-of-00001.safetensors", "is damaged", "SHA-256"] {
        assert!(error.contains(part), "{error}");
    }
    fs::write(folder.join("SHA256SUMS"), "nonsense\n").unwrap();
    assert!(verify().unwrap_err().to_string().contains("nonsense"));
    // A list must not lead out of the folder.
    fs::write(folder.join("SHA256SUMS"), format!("{}  ../a\n", "0".repeat(64))).unwrap();
    assert!(verify().unwrap_err().to_string().contains("of this folder"));
    fs::remove_file(folder.join("SHA256SUMS")).unwrap();
    assert_eq!(verify().unwrap(), None);
}

#[test]
fn a_newer_layout_is_refused_by_its_version() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    convert(&golden("p1_scout_like"), &packed_as(Quantization::q4()), &folder).unwrap();
    let file = folder.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(
        config["quantization_config"],
        json!({ "quant_method": "llama4-burn", "bits": 4, "version": 1, "head": "q8", "embedding": "bf16" })
    );
    for (version, said) in [(json!(2), "version 2"), (json!(0), "version 0"), (json!(null), "an unnamed number")] {
        config["quantization_config"]["version"] = version;
        fs::write(&file, config.to_string()).unwrap();
        let error = error_of(folder.as_path());
        assert!(error.contains(said) && error.contains("config.json") && error.contains("1 to 1"), "{error}");
    }
}

#[test]
fn a_folder_that_is_there_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    fs::create_dir(&folder).unwrap();
    convert(&golden("p1_scout_like"), &ConvertOptions::default(), &folder).unwrap();
    let before = names(&folder);
    let error = convert(&golden("p1_scout_like"), &packed_as(Quantization::q4()), &folder).unwrap_err().to_string();
    assert!(error.contains("is there and not empty"), "{error}");
    assert_eq!(names(&folder), before);
}

#[test]
fn an_interrupted_import_leaves_nothing_and_can_be_run_again() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    let checkpoint = Checkpoint::open(golden("p1_scout_like")).unwrap();
    let calls = Cell::new(0);
    let _ = checkpoint.convert(&packed_as(Quantization::q4()), &folder, |_| {
        calls.set(calls.get() + 1);
        ControlFlow::Continue(())
    });
    fs::remove_dir_all(&folder).unwrap();
    for stop_at in 1..=calls.get() {
        let count = Cell::new(0);
        let result = checkpoint.convert(&packed_as(Quantization::q4()), &folder, |progress| {
            assert!(progress.bytes_done <= progress.bytes_total);
            count.set(count.get() + 1);
            if count.get() == stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(result, Err(ImportError::Cancelled { .. })), "stopped at {stop_at}: {result:?}");
        assert_eq!(names(dir.path()), Vec::<String>::new(), "stopped at {stop_at}");
    }
    convert(&golden("p1_scout_like"), &packed_as(Quantization::q4()), &folder).unwrap();
    load(folder.as_path()).unwrap();
}

const Q: &str = "model.layers.1.self_attn.q_proj";

/// The error of an imported golden after a change to its tensors.
#[track_caller]
fn assert_refused(change: impl FnOnce(&mut Vec<RawTensor>), parts: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    convert(&golden("p1_scout_like"), &packed_as(Quantization::q4()), &folder).unwrap();
    let shard = folder.join("model-00001-of-00001.safetensors");
    let mut tensors = tensors_of(&shard);
    change(&mut tensors);
    let mut written = Written::of("p1_scout_like");
    written.tensors = tensors;
    fs::copy(folder.join("config.json"), written.file("config.json")).unwrap();
    fs::write(written.file("model.safetensors"), safetensors(&written.tensors)).unwrap();
    let error = error_of(written.path());
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

fn tensor<'a>(tensors: &'a mut [RawTensor], name: &str) -> &'a mut RawTensor {
    tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
}

#[test]
fn packed_weights_with_something_wrong_are_refused() {
    let (words, scales) = (format!("{Q}.qweight"), format!("{Q}.scales"));
    assert_refused(|t| t.retain(|t| t.name != words), &["q_proj.weight", "q_proj.scales", "missing", "no place"]);
    assert_refused(|t| t.retain(|t| t.name != scales), &[&words, "I32", "has no", &scales]);
    assert_refused(
        |t| *tensor(t, &scales) = RawTensor::new(&scales, "F16", &[64, 1], 2),
        &[&scales, "[64, 2]", "[64, 1]"],
    );
    assert_refused(
        |t| *tensor(t, &words) = RawTensor::new(&words, "I32", &[64, 7], 4),
        &[&words, "[64, 8]", "[64, 7]"],
    );
    assert_refused(
        |t| *tensor(t, &words) = RawTensor::new(&words, "F32", &[64, 8], 4),
        &[&words, "F32", "not supported"],
    );
    assert_refused(|t| *tensor(t, &scales) = RawTensor::new(&scales, "BF16", &[64, 2], 2), &[&scales, "BF16"]);
    let experts = "model.layers.1.feed_forward.experts.gate_up_proj.qweight";
    assert_refused(|t| tensor(t, experts).shape = vec![4, 8, 96], &[experts, "[4, 96, 8]", "[4, 8, 96]"]);
    // Both forms of one weight.
    assert_refused(
        |t| t.push(RawTensor::new(&format!("{Q}.weight"), "BF16", &[64, 64], 2)),
        &["2 tensors have no place", &words, &scales],
    );
}
