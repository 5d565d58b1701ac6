use std::fs;

use serde_json::json;

use super::files::{Checkpoint, RawTensor, flip_bytes, safetensors, with_header};
use super::*;

const GATE_UP: &str = "model.layers.2.feed_forward.experts.gate_up_proj";
const NORM: &str = "model.layers.1.input_layernorm.weight";

#[track_caller]
fn assert_says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

/// The error of a golden after a change to its tensors, as one file and as shards.
#[track_caller]
fn assert_refused(change: impl Fn(&mut Checkpoint), parts: &[&str]) {
    let changed = || {
        let mut checkpoint = Checkpoint::of("p1_scout_like");
        change(&mut checkpoint);
        checkpoint
    };
    assert_says(&error_of(changed().written().path()), parts);
    assert_says(&error_of(changed().sharded(3).path()), parts);
}

#[test]
fn a_missing_tensor_is_named() {
    assert_refused(|c| c.remove(GATE_UP), &["1 parameter is missing", GATE_UP]);
    assert_refused(
        |c| c.tensors.retain(|tensor| !tensor.name.contains("layers.3.")),
        &["12 parameters are missing", "model.layers.3.input_layernorm.weight", "…"],
    );
}

#[test]
fn a_missing_head_is_an_error_unless_the_configuration_ties_it() {
    assert_refused(|c| c.remove("lm_head.weight"), &["1 parameter is missing (lm_head.weight)"]);
    let mut checkpoint = Checkpoint::of("p1_scout_like").configured("tie_word_embeddings", json!(true));
    checkpoint.remove("lm_head.weight");
    load(checkpoint.written().path()).unwrap();
}

#[test]
fn an_extra_tensor_is_named() {
    let extra = |name: &'static str| move |c: &mut Checkpoint| c.tensors.push(RawTensor::new(name, "F32", &[2], 4));
    let other = "model.layers.0.self_attn.rotary_emb.inv_freq";
    assert_refused(extra(other), &["1 tensor has no place in it", other]);
    // A layer too many, biases that the configuration does not have, a name that only begins like one.
    for name in ["model.layers.4.input_layernorm.weight", "model.layers.0.self_attn.q_proj.bias", "lm_head.weights"] {
        assert_refused(extra(name), &["1 tensor has no place in it", name]);
    }
}

#[test]
fn the_same_parameter_under_two_names_is_an_error() {
    let twice = |c: &mut Checkpoint| {
        let mut tensor = c.tensor(NORM).clone();
        tensor.name = format!("language_model.{NORM}");
        c.tensors.push(tensor);
    };
    assert_refused(twice, &[NORM, "twice", "language_model."]);
}

#[test]
fn a_tensor_that_the_index_lists_twice_is_named() {
    let checkpoint = Checkpoint::of("p1_scout_like").sharded(3);
    let file = checkpoint.file("model.safetensors.index.json");
    let text = fs::read_to_string(&file).unwrap();
    let entry = text.find(&format!("\"{NORM}\"")).unwrap();
    let end = entry + text[entry..].find(',').unwrap() + 1;
    // The same entry again: both say the same, and still one of the two is a mistake.
    fs::write(&file, [&text[..end], &text[entry..end], &text[end..]].concat()).unwrap();
    assert_says(&error_of(checkpoint.path()), &["model.safetensors.index.json", NORM, "is listed twice"]);
}

#[test]
fn a_wrong_shape_is_given_with_the_right_one() {
    assert_refused(|c| c.tensor(NORM).shape = vec![32, 2], &[NORM, "[64]", "[32, 2]", "model"]);
    // Turned: the same number of elements, which a loader that reshapes would take.
    assert_refused(|c| c.tensor(GATE_UP).shape = vec![4, 96, 64], &[GATE_UP, "[4, 64, 96]", "[4, 96, 64]"]);
}

#[test]
fn a_wrong_type_is_named() {
    for (dtype, width) in [("I32", 4), ("F64", 8), ("BOOL", 1), ("F8_E5M2", 1)] {
        let typed = move |c: &mut Checkpoint| {
            let shape = c.tensor(NORM).shape.clone();
            *c.tensor(NORM) = RawTensor::new(NORM, dtype, &shape, width);
        };
        assert_refused(typed, &[NORM, dtype, "BF16, F16 or F32", "not supported"]);
    }
}

#[test]
fn a_file_that_is_cut_short_is_told_from_a_whole_one() {
    let whole = safetensors(&Checkpoint::of("p1_scout_like").tensors);
    let header = u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize + 8;
    for len in [0, 1, 7, 8, 9, header / 2, header - 1, header, header + 1, whole.len() / 2, whole.len() - 1] {
        let checkpoint = Checkpoint::of("p1_scout_like");
        fs::write(checkpoint.file("model.safetensors"), &whole[..len]).unwrap();
        let error = error_of(checkpoint.path());
        assert!(error.contains("too few") || error.contains("cut short"), "{len}: {error}");
        assert_says(&error, &["model.safetensors", "damaged"]);
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    // A folder in the place of a shard.
    let checkpoint = Checkpoint::of("p1_scout_like").sharded(3);
    let shard = checkpoint.file("model-00002-of-00003.safetensors");
    fs::remove_file(&shard).unwrap();
    fs::create_dir(&shard).unwrap();
    assert_says(&error_of(checkpoint.path()), &["cannot read", "model-00002-of-00003.safetensors"]);
    // One that nobody may read; whoever runs the tests as root may all the same.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let checkpoint = Checkpoint::of("p1_scout_like").written();
        let file = checkpoint.file("model.safetensors");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
        if fs::File::open(&file).is_err() {
            assert_says(&error_of(checkpoint.path()), &["cannot read", "model.safetensors", "ermission denied"]);
        }
    }
}

#[test]
fn a_corrupt_header_is_an_error() {
    let entry = |dtype: &str, shape: &str, start: u64, end: u64| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
    };
    let huge = u64::MAX;
    let two = |first: String, second: String| format!(r#"{{"a":{first},"b":{second}}}"#);
    let cases = [
        ("not json".to_string(), "not valid"),
        ("[]".to_string(), "not valid"),
        (r#"{"a":3}"#.to_string(), "a: "),
        (r#"{"a":{"dtype":"F32","shape":[1]}}"#.to_string(), "data_offsets"),
        (r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#.to_string(), "a: "),
        (format!(r#"{{"a":{}}}"#, entry("F32", "[2]", 8, 0)), "begin at 8 and end at 0"),
        (format!(r#"{{"a":{}}}"#, entry("F32", "[3]", 0, 8)), "takes 12 bytes, its offsets give 8"),
        (format!(r#"{{"a":{}}}"#, entry("F32", &format!("[{huge},{huge}]"), 0, 8)), "overflows"),
        (format!(r#"{{"a":{}}}"#, entry("F32", &format!("[{}]", huge / 2), 0, 8)), "overflows"),
        (format!(r#"{{"a":{}}}"#, entry("F32", "[4]", 0, 16)), "cut short"),
        (format!(r#"{{"a":{}}}"#, entry("NEW", "[2]", huge - 8, huge)), "cut short"),
        (format!(r#"{{"a":{}}}"#, entry("F32", "[1]", 0, 4)), "the file at"),
        (two(entry("F32", "[1]", 0, 4), entry("F32", "[2]", 0, 8)), "overlap"),
        (two(entry("F32", "[0]", 0, 0), entry("F32", "[1]", 4, 8)), "leave a gap"),
        (format!(r#"{{"a":{0},"a":{0}}}"#, entry("F32", "[2]", 0, 8)), "a occurs twice"),
    ];
    for (header, part) in cases {
        let checkpoint = Checkpoint::of("p1_scout_like");
        fs::write(checkpoint.file("model.safetensors"), with_header(&header, &[0; 8])).unwrap();
        assert_says(&error_of(checkpoint.path()), &["model.safetensors", part]);
    }
}

#[test]
fn a_header_of_absurd_length_is_not_read() {
    for length in [1_u64 << 63, u64::MAX, 1 << 40, 100_000_001] {
        let checkpoint = Checkpoint::of("p1_scout_like");
        let mut bytes = safetensors(&checkpoint.tensors);
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        fs::write(checkpoint.file("model.safetensors"), bytes).unwrap();
        assert_says(&error_of(checkpoint.path()), &["model.safetensors", &length.to_string()]);
    }
}

#[test]
fn no_flipped_byte_of_a_header_gets_past_the_checks_into_a_panic() {
    let checkpoint = Checkpoint::of("p1_scout_like").written();
    flip_bytes(&checkpoint, "model.safetensors", 0..1200);
}

#[test]
fn folders_that_are_no_checkpoints_say_what_they_lack() {
    let dir = tempfile::tempdir().unwrap();
    assert_says(&error_of(dir.path()), &["no config.json"]);
    assert_says(&error_of(dir.path().join("absent")), &["absent", "not a folder"]);
    fs::write(dir.path().join("file"), "").unwrap();
    assert_says(&error_of(dir.path().join("file")), &["not a folder"]);

    let checkpoint = Checkpoint::of("p1_scout_like");
    let looked_for = ["no weights", "model.safetensors.index.json", "pytorch_model.bin", "model.mpk", "*.pth"];
    assert_says(&error_of(checkpoint.path()), &looked_for);
    let checkpoint = checkpoint.written();
    fs::remove_file(checkpoint.file("config.json")).unwrap();
    assert_says(&error_of(checkpoint.path()), &["no config.json"]);
    fs::write(checkpoint.file("config.json"), "{").unwrap();
    assert_says(&error_of(checkpoint.path()), &["config.json"]);

    let checkpoint = Checkpoint::of("p1_scout_like");
    fs::create_dir(checkpoint.file("model.safetensors")).unwrap();
    assert_says(&error_of(checkpoint.path()), &["cannot read", "model.safetensors"]);
}

#[test]
fn an_index_that_does_not_fit_its_shards_is_an_error() {
    let index = "model.safetensors.index.json";
    let shard = "model-00002-of-00003.safetensors";
    let refused = |change: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>), parts: &[&str]| {
        let checkpoint = Checkpoint::of("p1_scout_like").sharded(3);
        let file = checkpoint.file(index);
        let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        change(json["weight_map"].as_object_mut().unwrap());
        fs::write(&file, json.to_string()).unwrap();
        let error = error_of(checkpoint.path());
        assert_says(&error, parts);
        assert_says(&error, &[index]);
    };
    refused(
        &|map| drop(map.insert(NORM.into(), "model-9.safetensors".into())),
        &[NORM, "model-9.safetensors", "not there"],
    );
    refused(&|map| drop(map.insert("ghost".into(), shard.into())), &["ghost", shard, "lacks it"]);
    refused(&|map| drop(map.remove(NORM)), &[NORM, "not listed"]);
    refused(&|map| map.clear(), &["empty"]);
    refused(&|map| drop(map.insert(NORM.into(), 3.into())), &["not a valid shard index"]);
    for outside in ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", ""] {
        refused(&|map| drop(map.insert(NORM.into(), outside.into())), &[NORM, "not a file of the same folder"]);
    }
    // Every tensor in the wrong shard.
    let moved = |map: &mut serde_json::Map<String, serde_json::Value>| {
        map.values_mut().for_each(|file| *file = shard.into());
        map.insert(NORM.into(), "model-00001-of-00003.safetensors".into());
    };
    refused(&moved, &["listed for", "but is in"]);

    let checkpoint = Checkpoint::of("p1_scout_like").sharded(3);
    fs::write(checkpoint.file(index), "{\"weight_map\":").unwrap();
    assert_says(&error_of(checkpoint.path()), &[index, "not a valid shard index"]);
    let checkpoint = Checkpoint::of("p1_scout_like").sharded(3);
    fs::remove_file(checkpoint.file(shard)).unwrap();
    assert_says(&error_of(checkpoint.path()), &[index, shard, "not there"]);
    let checkpoint = Checkpoint::of("p1_scout_like").sharded(3);
    fs::write(checkpoint.file(shard), [0; 20]).unwrap();
    assert_says(&error_of(checkpoint.path()), &[shard, "damaged"]);
}
