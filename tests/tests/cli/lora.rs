//! `--lora`: PEFT's files, made here by hand, against the same products added to the checkpoint by hand.

use std::collections::BTreeMap;
use std::path::Path;

use llama4_tests::golden::{Golden, assert_close};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::binary::{copy, golden, json_lines, llama4, run, stderr, stdout};

/// Held in `F32`, so that a sum in the file is not rounded further.
const CHECKPOINT: &str = "p3_chunked";
const LAYERS: usize = 4;
const RANK: usize = 3;
const ALPHA: f64 = 7.5;
/// Projections with their names in a layer, and `[out, in]`; no two are alike in both.
const TARGETS: [(&str, &str, [usize; 2]); 3] = [
    ("q_proj", "self_attn.q_proj", [64, 64]),
    ("v_proj", "self_attn.v_proj", [32, 64]),
    ("down_proj", "feed_forward.shared_expert.down_proj", [64, 48]),
];

/// Tensors of `F32` by their names.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn read(file: &Path) -> Tensors {
    let bytes = std::fs::read(file).expect("a file");
    let file = SafeTensors::deserialize(&bytes).expect("a valid file");
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        assert_eq!(view.dtype(), Dtype::F32, "{name}");
        let values = view.data().chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four")));
        (name, (view.shape().to_vec(), values.collect()))
    });
    tensors.collect()
}

fn write(file: &Path, tensors: &Tensors) {
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| (name, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect()))
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.to_vec(), bytes).expect("as many bytes as the shape says"))
    });
    std::fs::write(file, safetensors::serialize(views, None).expect("a file")).expect("a writable folder");
}

/// Values between -0.3 and 0.3, others for each seed.
fn values(seed: usize, count: usize) -> Vec<f32> {
    let mut state = seed as u64 + 1;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.6
        })
        .collect()
}

/// The name of A or B of a projection in PEFT's files.
fn name(layer: usize, projection: &str, part: char) -> String {
    format!("base_model.model.model.layers.{layer}.{projection}.lora_{part}.weight")
}

fn config() -> Value {
    json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "some/where", "inference_mode": true,
        "r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.1, "bias": "none", "use_rslora": false, "use_dora": false,
        "target_modules": TARGETS.map(|(target, ..)| target), "modules_to_save": null, "fan_in_fan_out": false,
    })
}

fn adapter() -> Tensors {
    let mut tensors = Tensors::new();
    for layer in 0..LAYERS {
        for (at, (_, projection, [output, input])) in TARGETS.into_iter().enumerate() {
            let seed = 10 * (TARGETS.len() * layer + at);
            tensors.insert(name(layer, projection, 'A'), (vec![RANK, input], values(seed, RANK * input)));
            tensors.insert(name(layer, projection, 'B'), (vec![output, RANK], values(seed + 5, output * RANK)));
        }
    }
    tensors
}

/// A folder as PEFT leaves it.
fn folder(config: &Value, tensors: &Tensors) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("adapter_config.json"), config.to_string()).expect("a writable folder");
    write(&dir.path().join("adapter_model.safetensors"), tensors);
    dir
}

/// The checkpoint with `alpha / r · B A` added to each adapted weight, summed in `f64`.
fn merged() -> tempfile::TempDir {
    let dir = copy(CHECKPOINT);
    let file = dir.path().join("model.safetensors");
    let (mut weights, adapter) = (read(&file), adapter());
    for layer in 0..LAYERS {
        for (_, projection, [output, input]) in TARGETS {
            let [(_, a), (_, b)] = ['A', 'B'].map(|part| &adapter[&name(layer, projection, part)]);
            let (shape, weight) =
                weights.get_mut(&format!("model.layers.{layer}.{projection}.weight")).expect("the projection");
            assert_eq!(shape, &[output, input]);
            for (at, value) in weight.iter_mut().enumerate() {
                let (row, column) = (at / input, at % input);
                let products = (0..RANK).map(|r| f64::from(b[row * RANK + r]) * f64::from(a[r * input + column]));
                *value = (f64::from(*value) + ALPHA / RANK as f64 * products.sum::<f64>()) as f32;
            }
        }
    }
    write(&file, &weights);
    dir
}

fn prompt() -> String {
    Golden::open(CHECKPOINT).ids("prompt_ids").iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

fn generated(model: &str, more: &str) -> Value {
    let arguments =
        format!("generate --model {model} --tokens {} --temperature 0 -n 24 --ignore-eos --json {more}", prompt());
    json_lines(run(&mut llama4(&arguments)).success().get_output())[0]["tokens"].clone()
}

fn logits(model: &str, more: &str) -> Vec<f32> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("logits.safetensors");
    let arguments =
        format!("logits --model {model} --tokens {} --hidden-states none --output {} {more}", prompt(), file.display());
    run(&mut llama4(&arguments)).success();
    read(&file).remove("logits").expect("logits").1
}

#[test]
fn an_adapter_answers_as_the_checkpoint_that_it_is_merged_into() {
    let (adapter, merged) = (folder(&config(), &adapter()), merged());
    let lora = format!("--lora {}", adapter.path().display());
    let (base, merged) = (golden(CHECKPOINT), merged.path().display().to_string());
    let tokens = generated(&base, &lora);
    assert_eq!(tokens, generated(&merged, ""));
    assert_ne!(tokens, generated(&base, ""), "the adapter changes the answer");

    let expected: Vec<f64> = logits(&merged, "").into_iter().map(f64::from).collect();
    // The goldens' tolerance: sums in another order, in every layer.
    assert_close("logits", &logits(&base, &lora), &expected, 1e-3);
    let moved = logits(&base, "").into_iter().zip(&expected).map(|(before, after)| (f64::from(before) - after).abs());
    assert!(moved.fold(0.0, f64::max) > 0.1, "an adapter that matters");
}

#[test]
fn an_adapter_that_is_not_the_models_is_1_and_named() {
    let fails = |dir: &Path, said: &[&str]| {
        let arguments = format!("generate --model {} --tokens 1,2,3 -n 2 --lora {}", golden(CHECKPOINT), dir.display());
        let assert = run(&mut llama4(&arguments)).code(1);
        let text = stderr(assert.get_output());
        said.iter().for_each(|part| assert!(text.contains(part), "should say {part:?}:\n{text}"));
        assert_eq!(stdout(assert.get_output()), "");
    };
    let configured = |field: &str, value: Value, said: &[&str]| {
        let mut config = config();
        config[field] = value;
        fails(folder(&config, &adapter()).path(), said);
    };
    let changed = |change: &dyn Fn(&mut Tensors), said: &[&str]| {
        let mut tensors = adapter();
        change(&mut tensors);
        fails(folder(&config(), &tensors).path(), said);
    };
    let first = name(0, TARGETS[0].1, 'A');

    fails(Path::new("/no/such/adapter"), &["/no/such/adapter", "adapter_config.json"]);
    configured("target_modules", json!(["q_proj", "router"]), &["adapter_config.json", "target_modules", "router"]);
    configured("use_dora", json!(true), &["adapter_config.json", "use_dora"]);
    configured("peft_type", json!("IA3"), &["adapter_config.json", "peft_type", "IA3"]);
    // Another rank than the tensors have, and targets that have none or are not said.
    configured("r", json!(5), &["adapter_model.safetensors", &first, "expected shape [5, 64]", "[3, 64]"]);
    configured(
        "target_modules",
        json!(["q_proj", "v_proj", "down_proj", "o_proj"]),
        &[&name(0, "self_attn.o_proj", 'A')],
    );
    configured("target_modules", json!(["q_proj", "v_proj"]), &[&name(0, TARGETS[2].1, 'A')]);
    // One layer too few, one too many, and a matrix of another model.
    changed(&|tensors| tensors.retain(|name, _| !name.contains("layers.3.")), &["layers.3.", "lora_A"]);
    changed(
        &|tensors| {
            let tensor = tensors[&first].clone();
            tensors.insert(name(4, TARGETS[0].1, 'A'), tensor);
        },
        &["layers.4."],
    );
    changed(
        &|tensors| {
            tensors.insert(first.clone(), (vec![RANK, 80], values(1, RANK * 80)));
        },
        &[&first, "expected shape [3, 64]", "[3, 80]"],
    );
    let transposed = |tensors: &mut Tensors| tensors.get_mut(&first).expect("A").0.reverse();
    changed(&transposed, &[&first, "expected shape [3, 64]", "[64, 3]"]);
    let folder = folder(&config(), &adapter());
    std::fs::remove_file(folder.path().join("adapter_model.safetensors")).expect("a file");
    fails(folder.path(), &["adapter_model.safetensors"]);
}
