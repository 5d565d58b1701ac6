use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Map, json};

use super::files::{Checkpoint, Pickled, flip_bytes, pytorch_file, pytorch_file_with};
use super::*;
use crate::import::WeightsForm;

const QUERY: &str = "model.layers.0.self_attn.q_proj.weight";

fn pickled(checkpoint: &Checkpoint) -> Vec<Pickled> {
    checkpoint.tensors.iter().cloned().map(Pickled::from).collect()
}

#[test]
fn a_state_dict_gives_the_same_bits_as_safetensors() {
    for name in ["p1_scout_like", "p2_maverick_like", "p5_ropescaled_bias_tied_gqa4"] {
        for file in ["pytorch_model.bin", "weights.pth", "weights.pt"] {
            let checkpoint = Checkpoint::of(name);
            fs::write(checkpoint.file(file), pytorch_file(&pickled(&checkpoint))).unwrap();
            let plain = load(golden(name)).unwrap();
            for loader in [Loader::Recorder, Loader::Streamed] {
                let loaded = load_with(checkpoint.path(), loader).unwrap();
                assert_eq!(loaded.report.form, WeightsForm::PyTorch);
                assert_eq!(loaded.report.dtypes, plain.report.dtypes);
                assert_same(&loaded.model, &plain.model);
            }
        }
    }
}

#[test]
fn a_file_of_pytorch_itself_gives_the_same_bits_as_safetensors() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/pytorch");
    let folder = |name: &str| {
        let dir = tempfile::tempdir().unwrap();
        for name in ["config.json", name] {
            fs::copy(fixture.join(name), dir.path().join(name)).unwrap();
        }
        dir
    };
    let (pickled, plain) = (folder("pytorch_model.bin"), folder("model.safetensors"));
    let plain = load_with(plain.path(), Loader::Streamed).unwrap();
    for loader in [Loader::Recorder, Loader::Streamed] {
        let pickled = load_with(pickled.path(), loader).unwrap();
        assert_eq!(pickled.report.form, WeightsForm::PyTorch);
        assert_eq!((pickled.report.skipped_vision, &pickled.report.dtypes), (1, &plain.report.dtypes));
        assert_same(&pickled.model, &plain.model);
    }
}

#[test]
fn a_pickle_that_burn_cannot_read_is_streamed_instead() {
    let checkpoint = Checkpoint::of("p1_scout_like");
    // Protocol 4 puts the pickle in frames.
    let framed = |pickle: &mut Vec<u8>| {
        let frame = [&[0x80, 4, 0x95][..], &(pickle.len() as u64 - 2).to_le_bytes()].concat();
        pickle.splice(..2, frame);
    };
    let file = checkpoint.file("pytorch_model.bin");
    fs::write(&file, pytorch_file_with(&pickled(&checkpoint), framed)).unwrap();
    assert_same(&load(checkpoint.path()).unwrap().model, &load(golden("p1_scout_like")).unwrap().model);
    let error = load_with(checkpoint.path(), Loader::Recorder).unwrap_err().to_string();
    assert!(error.contains("pytorch_model.bin") && error.contains("0x95"), "{error}");
}

#[test]
fn prefixes_and_vision_are_read_as_elsewhere() {
    let mut checkpoint = Checkpoint::of("p1_scout_like");
    let mut vision = checkpoint.tensor(QUERY).clone();
    vision.name = format!("vision_model.{QUERY}");
    for tensor in &mut checkpoint.tensors {
        tensor.name = format!("language_model.{}", tensor.name);
    }
    checkpoint.tensors.push(vision);
    fs::write(checkpoint.file("pytorch_model.bin"), pytorch_file(&pickled(&checkpoint))).unwrap();
    for loader in [Loader::Recorder, Loader::Streamed] {
        let loaded = load_with(checkpoint.path(), loader).unwrap();
        assert_eq!(loaded.report.skipped_vision, 1);
        assert_same(&loaded.model, &load(golden("p1_scout_like")).unwrap().model);
    }
}

#[test]
fn shards_are_read_by_their_index() {
    let checkpoint = Checkpoint::of("p1_scout_like");
    let mut map = Map::new();
    for (shard, first) in [("a.bin", 0), ("b.bin", 1)] {
        let part: Vec<_> = checkpoint.tensors.iter().skip(first).step_by(2).cloned().collect();
        map.extend(part.iter().map(|tensor| (tensor.name.clone(), json!(shard))));
        let part: Vec<_> = part.into_iter().map(Pickled::from).collect();
        fs::write(checkpoint.file(shard), pytorch_file(&part)).unwrap();
    }
    let index = json!({ "weight_map": map });
    fs::write(checkpoint.file("pytorch_model.bin.index.json"), index.to_string()).unwrap();
    let loaded = load(checkpoint.path()).unwrap();
    assert_eq!(loaded.report.form, WeightsForm::ShardedPyTorch);
    assert_same(&loaded.model, &load(golden("p1_scout_like")).unwrap().model);
}

/// The error of a golden as a PyTorch file, after a change to its tensors.
#[track_caller]
fn assert_refused(change: impl Fn(&mut Vec<Pickled>), parts: &[&str]) {
    let checkpoint = Checkpoint::of("p1_scout_like");
    let mut tensors = pickled(&checkpoint);
    change(&mut tensors);
    fs::write(checkpoint.file("pytorch_model.bin"), pytorch_file(&tensors)).unwrap();
    let error = error_of(checkpoint.path());
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

fn query(tensors: &mut [Pickled]) -> &mut Pickled {
    tensors.iter_mut().find(|pickled| pickled.tensor.name == QUERY).unwrap()
}

#[test]
fn the_checks_are_those_of_safetensors() {
    assert_refused(|t| t.retain(|t| t.tensor.name != QUERY), &["1 parameter is missing", QUERY]);
    assert_refused(|t| query(t).tensor.name = "other".to_string(), &["missing", QUERY, "no place", "other"]);
    assert_refused(
        |t| {
            let mut wide = query(t).tensor.clone();
            wide.shape = vec![32, 128];
            *query(t) = wide.into();
        },
        &[QUERY, "[64, 64]", "[32, 128]", "pytorch_model.bin"],
    );
    assert_refused(
        |t| {
            query(t).tensor.dtype = "I32".to_string();
            query(t).tensor.bytes = vec![0; 64 * 64 * 4];
        },
        &[QUERY, "I32", "not supported"],
    );
}

#[test]
fn values_that_are_not_all_there_or_not_in_order_are_refused() {
    // burn-store reads each of these without a word: as zeros, or in the wrong order.
    assert_refused(|t| query(t).strides = vec![1, 64], &[QUERY, "not in order", "contiguous"]);
    assert_refused(|t| query(t).tensor.bytes.truncate(64), &[QUERY, "does not fit its storage"]);
    assert_refused(|t| query(t).offset = 1, &[QUERY, "from element 1 on does not fit"]);
    let checkpoint = Checkpoint::of("p1_scout_like");
    let bytes = pytorch_file(&pickled(&checkpoint));
    // The archive's directory names a storage twice: in front of its bytes and at the end.
    let lost: Vec<u8> = replaced(&bytes, b"archive/data/7", b"archive/dat_/7");
    fs::write(checkpoint.file("pytorch_model.bin"), lost).unwrap();
    let error = error_of(checkpoint.path());
    assert!(error.contains("its storage 7 is not in the file"), "{error}");
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut position = 0;
    while let Some(found) = bytes[position..].windows(from.len()).position(|window| window == from) {
        position += found;
        bytes[position..position + from.len()].copy_from_slice(to);
    }
    bytes
}

#[test]
fn damaged_files_and_other_pickles_are_errors() {
    let checkpoint = Checkpoint::of("p1_scout_like");
    let file = checkpoint.file("pytorch_model.bin");
    let whole = pytorch_file(&pickled(&checkpoint));
    for len in [0, 1, 2, 10, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..len]).unwrap();
        let error = error_of(checkpoint.path());
        assert!(error.contains("pytorch_model.bin is damaged"), "{len}: {error}");
    }
    fs::write(&file, b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.").unwrap();
    assert!(error_of(checkpoint.path()).contains("before version 1.6"));
}

#[test]
fn an_archive_full_of_ends_is_not_searched_through() {
    let checkpoint = Checkpoint::of("p1_scout_like");
    // Each says that there is one member, described at the beginning, where there is none.
    let end = [&b"PK\x05\x06\0\0\0\0\x01\0\x01\0\x2e"[..], &[0; 9]].concat();
    fs::write(checkpoint.file("pytorch_model.bin"), [&b"PK\x03\x04"[..], &end.repeat(200_000)].concat()).unwrap();
    let started = Instant::now();
    let error = error_of(checkpoint.path());
    assert!(error.contains("its archive cannot be read: entry 0 of 1 is broken"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[test]
fn an_archive_of_64_bit_sizes_is_read_like_any_other() {
    let checkpoint = Checkpoint::of("p1_scout_like");
    let bytes = pytorch_file(&pickled(&checkpoint));
    let (rest, end) = bytes.split_at(bytes.len() - 22);
    let field = |at: usize, width: usize| &end[at..at + width];
    let wide = |bytes: &[u8]| [bytes, &vec![0; 8 - bytes.len()]].concat();
    let counts = wide(field(10, 2)).repeat(2);
    let mut wider = rest.to_vec();
    let start = (rest.len() as u64).to_le_bytes();
    wider.extend([b"PK\x06\x06\x2c", &[0; 19][..], &counts, &wide(field(12, 4)), &wide(field(16, 4))].concat());
    wider.extend([b"PK\x06\x07", &[0; 4][..], &start, &[1, 0, 0, 0]].concat());
    wider.extend([b"PK\x05\x06", &[0; 4][..], &[0xff; 12], &[0; 2]].concat());
    fs::write(checkpoint.file("pytorch_model.bin"), wider).unwrap();
    assert_same(&load(checkpoint.path()).unwrap().model, &load(golden("p1_scout_like")).unwrap().model);
}

#[test]
fn no_flipped_byte_of_a_pickle_gets_past_the_checks_into_a_panic() {
    let checkpoint = Checkpoint::of("p1_scout_like");
    let whole = pytorch_file(&pickled(&checkpoint));
    fs::write(checkpoint.file("pytorch_model.bin"), &whole).unwrap();
    flip_bytes(&checkpoint, "pytorch_model.bin", (0..1500).chain(whole.len() - 800..whole.len()));
}

#[test]
fn folders_without_an_index_are_not_guessed_at() {
    let checkpoint = Checkpoint::of("p1_scout_like");
    fs::write(checkpoint.file("a.pth"), "").unwrap();
    fs::write(checkpoint.file("b.pth"), "").unwrap();
    assert!(error_of(checkpoint.path()).contains("2 .pth or .pt files"));
    // Names that say what they are come first.
    fs::write(checkpoint.file("consolidated.00.pth"), "").unwrap();
    assert!(error_of(checkpoint.path()).contains("consolidated.00.pth is damaged"));
    fs::write(checkpoint.file("consolidated.0.pth"), "").unwrap();
    assert!(error_of(checkpoint.path()).contains("consolidated.0.pth: ranks are named consolidated.00.pth"));
}
