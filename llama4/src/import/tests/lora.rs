//! Adapter folders of every form and every defect.

use std::ffi::OsString;
use std::fs;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::files::{RawTensor, safetensors, tensors_of};
use super::*;
use crate::error::LoraError;
use crate::import::{RecordPrecision, load_lora, save_hf, save_lora, save_record};
use crate::nn::{LoraConfig, LoraTarget};

const NAME: &str = "p1_scout_like";

fn model() -> TestModel {
    load(golden(NAME)).unwrap().model
}

/// Names and bytes of the files of a fresh adapter of queries and down projections, the same for all tests.
static FILES: LazyLock<Vec<(OsString, Vec<u8>)>> = LazyLock::new(|| {
    let targets = vec![LoraTarget::QProj, LoraTarget::DownProj];
    let config = LoraConfig::new().with_rank(4).with_alpha(2.5).with_dropout(0.25).with_targets(targets);
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(&dir);
    save_lora(&model().with_lora(&config).unwrap(), &folder, Some("my/base")).unwrap();
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap())).collect()
});

/// A folder with those files.
fn saved() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder(&dir)).unwrap();
    FILES.iter().for_each(|(name, bytes)| fs::write(folder(&dir).join(name), bytes).unwrap());
    dir
}

fn folder(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("new/adapter")
}

fn configuration(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("adapter_config.json")).unwrap()).unwrap()
}

/// What loading says after a field of the configuration was changed.
fn refused(field: &str, value: Value) -> String {
    let dir = saved();
    let dir = folder(&dir);
    let mut config = configuration(&dir);
    config[field] = value;
    fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    load_lora(model(), &dir).expect_err(field).to_string()
}

/// Load after the weights were changed.
fn load_changed(change: impl FnOnce(&mut Vec<RawTensor>)) -> Result<TestModel, ImportError> {
    let dir = saved();
    let dir = folder(&dir);
    let file = dir.join("adapter_model.safetensors");
    let mut tensors = tensors_of(&file);
    change(&mut tensors);
    fs::write(file, safetensors(&tensors)).unwrap();
    load_lora(model(), &dir)
}

fn error_after(change: impl FnOnce(&mut Vec<RawTensor>)) -> String {
    load_changed(change).expect_err("a defect").to_string()
}

#[test]
fn files_are_those_of_peft() {
    let dir = saved();
    let dir = folder(&dir);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
    let config = configuration(&dir);
    for (field, value) in [
        ("peft_type", json!("LORA")),
        ("task_type", json!("CAUSAL_LM")),
        ("base_model_name_or_path", json!("my/base")),
        ("r", json!(4)),
        ("lora_alpha", json!(2.5)),
        ("lora_dropout", json!(0.25)),
        ("use_rslora", json!(false)),
        ("bias", json!("none")),
        ("target_modules", json!(["q_proj", "down_proj"])),
    ] {
        assert_eq!(config[field], value, "{field}");
    }
    let tensors = tensors_of(&dir.join("adapter_model.safetensors"));
    let shapes: Vec<(&str, &[usize])> =
        tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice())).collect();
    let config = model().config().clone();
    assert_eq!(shapes.len(), 4 * config.num_hidden_layers);
    let (hidden, width) = (config.hidden_size, config.intermediate_size);
    let layer = "base_model.model.model.layers.0";
    let queries = config.num_attention_heads * config.head_dim;
    for (name, shape) in [
        ("self_attn.q_proj.lora_A", [4, hidden]),
        ("self_attn.q_proj.lora_B", [queries, 4]),
        ("feed_forward.shared_expert.down_proj.lora_A", [4, width]),
        ("feed_forward.shared_expert.down_proj.lora_B", [hidden, 4]),
    ] {
        let name = format!("{layer}.{name}.weight");
        assert!(shapes.contains(&(name.as_str(), &shape[..])), "{name}");
    }
}

#[test]
fn prefixes_and_16_bit_floats_are_read() {
    let expected = load_changed(|_| ()).unwrap();
    let multimodal = [
        ("base_model.model.model.layers", "base_model.model.language_model.model.layers"),
        ("base_model.model.model.layers", "base_model.model.model.language_model.layers"),
        ("base_model.model.model.layers", "model.layers"),
    ];
    for (from, to) in multimodal {
        let loaded = load_changed(|tensors| {
            tensors.iter_mut().for_each(|tensor| tensor.name = tensor.name.replace(from, to));
            // Skipped, as the vision half is.
            let vision = "base_model.model.vision_model.model.layers.0.self_attn.q_proj.lora_A.weight";
            tensors.push(RawTensor::new(vision, "F32", &[4, 8], 4));
        });
        assert_same(&loaded.unwrap(), &expected);
    }
    // The upper half of an `f32` is a `bf16`.
    let cut = |bytes: &[u8]| bytes.chunks(4).flat_map(|value| [value[2], value[3]]).collect::<Vec<u8>>();
    let widened = |bytes: &[u8]| bytes.chunks(2).flat_map(|value| [0, 0, value[0], value[1]]).collect::<Vec<u8>>();
    let halves = load_changed(|tensors| {
        for tensor in tensors {
            (tensor.dtype, tensor.bytes) = ("BF16".to_string(), cut(&tensor.bytes));
        }
    });
    let rounded = load_changed(|tensors| {
        tensors.iter_mut().for_each(|tensor| tensor.bytes = widened(&cut(&tensor.bytes)));
    });
    assert_same(&halves.unwrap(), &rounded.unwrap());
}

#[test]
fn tensors_are_compared_with_the_model() {
    let name = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight";
    let at = |tensors: &[RawTensor]| tensors.iter().position(|tensor| tensor.name == name).unwrap();

    let error = error_after(|tensors| drop(tensors.remove(at(tensors))));
    assert!(error.contains("1 parameter is missing") && error.contains(name), "{error}");
    assert!(error.contains("adapter_model.safetensors"), "{error}");

    let stray = "base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight";
    let error = error_after(|tensors| tensors.push(RawTensor::new(stray, "F32", &[1, 4], 4)));
    assert!(error.contains("1 tensor has no place") && error.contains(stray), "{error}");

    let error = error_after(|tensors| {
        let place = at(tensors);
        tensors[place].shape.reverse();
    });
    let [output, rank] = [model().config().num_attention_heads * model().config().head_dim, 4];
    assert!(error.contains(&format!("{name}: expected shape [{output}, {rank}]")), "{error}");
    assert!(error.contains(&format!("has [{rank}, {output}]")), "{error}");

    let error = error_after(|tensors| {
        let place = at(tensors);
        tensors[place].dtype = "I32".to_string();
    });
    assert!(error.contains(name) && error.contains("has I32"), "{error}");

    let error = error_after(|tensors| {
        let mut copy = tensors[at(tensors)].clone();
        copy.name = name.replace("model.layers", "language_model.model.layers");
        tensors.push(copy);
    });
    assert!(error.contains("is there twice"), "{error}");
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (field, value) in [
        ("peft_type", json!("LOHA")),
        ("use_dora", json!(true)),
        ("rank_pattern", json!({ "q_proj": 8 })),
        ("alpha_pattern", json!({ "q_proj": 8 })),
        ("bias", json!("all")),
        ("modules_to_save", json!(["lm_head"])),
        ("layers_to_transform", json!([0, 1])),
        ("layers_pattern", json!("layers")),
        ("fan_in_fan_out", json!(true)),
        ("init_lora_weights", json!("pissa")),
        ("a_field_of_tomorrow", json!(1)),
        ("target_modules", json!(["q_proj", "router"])),
        ("target_modules", json!("all-linear")),
        ("target_modules", json!([])),
        ("r", json!(0)),
        ("r", json!("8")),
        ("lora_alpha", json!(null)),
        ("use_rslora", json!(1)),
    ] {
        let error = refused(field, value.clone());
        assert!(error.contains("adapter_config.json") && error.contains(field), "{field} {value}: {error}");
    }
    assert!(refused("lora_dropout", json!(1.5)).contains("dropout"));
}

#[test]
fn adapters_are_not_hidden_in_files_of_models() {
    let adapted = model().with_lora(&LoraConfig::new()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for result in [
        save_hf(&adapted, dir.path(), burn::tensor::DType::F32),
        save_record(&adapted, &dir.path().join("model.mpk"), RecordPrecision::Full),
    ] {
        assert!(matches!(result, Err(ImportError::SaveAdapted { .. })));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    save_hf(&adapted.merge_lora().unwrap(), dir.path(), burn::tensor::DType::F32).unwrap();
}

#[test]
fn adapters_are_given_once_and_taken_where_there_are_some() {
    let dir = saved();
    let adapted = load_lora(model(), &folder(&dir)).unwrap();
    let again = load_lora(adapted, &folder(&dir)).map(|_| ());
    assert!(matches!(again, Err(ImportError::Lora(LoraError::Adapted))));
    let none = save_lora(&model(), dir.path(), None);
    assert!(matches!(none, Err(ImportError::Lora(LoraError::NotAdapted))));
    assert!(matches!(model().merge_lora().map(|_| ()), Err(LoraError::NotAdapted)));
}
