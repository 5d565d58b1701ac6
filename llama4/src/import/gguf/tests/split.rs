use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::import::gguf::split::read_all;

/// A part of three, with one tensor.
fn part(number: u16) -> Writer {
    let part = Writer::default()
        .with("split.no", number)
        .with("split.count", 3_u16)
        .with("split.tensors.count", 3_i32)
        .tensor(&format!("tensor {number}"), 0, &[1], vec![number as u8; 4]);
    if number == 0 { part.with("general.architecture", "llama4") } else { part }
}

struct Parts {
    dir: TempDir,
}

impl Parts {
    fn written() -> Self {
        let parts = Self { dir: tempfile::tempdir().unwrap() };
        for number in 0..3 {
            parts.write(number, &part(number));
        }
        parts
    }

    fn path(&self, number: u16) -> PathBuf {
        self.dir.path().join(format!("model-{:05}-of-00003.gguf", number + 1))
    }

    fn write(&self, number: u16, writer: &Writer) {
        fs::write(self.path(number), writer.bytes()).unwrap();
    }

    #[track_caller]
    fn refused(&self, number: u16, parts: &[&str]) {
        let error = read_all(&self.path(number)).map(|_| ()).expect_err("a defect").to_string();
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    }
}

#[test]
fn one_file_is_read_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("any name");
    for writer in [Writer::default(), Writer::default().with("split.count", 1_u16)] {
        fs::write(&path, writer.zeros("tensor", &[3]).bytes()).unwrap();
        let model = read_all(&path).unwrap();
        assert_eq!((model.tensors.len(), model.file()), (1, &*path));
    }
    let error = read_all(&dir.path().join("nowhere.gguf")).unwrap_err().to_string();
    assert!(error.contains("nowhere.gguf"), "{error}");
}

#[test]
fn all_parts_are_found_from_the_first() {
    let parts = Parts::written();
    let model = read_all(&parts.path(0)).unwrap();
    assert_eq!(model.metadata.text("general.architecture").unwrap(), Some("llama4"));
    for number in 0..3 {
        let tensor = model.tensor(&format!("tensor {number}")).unwrap();
        assert_eq!((tensor.bytes(), &*tensor.file), (&[number as u8; 4][..], &*parts.path(number)));
    }
}

#[test]
fn a_part_that_is_not_there_is_named_before_any_is_read() {
    let parts = Parts::written();
    fs::remove_file(parts.path(2)).unwrap();
    fs::write(parts.path(1), "damaged").unwrap();
    parts.refused(0, &["of its 3 parts", "model-00003-of-00003.gguf is not there"]);
}

#[test]
fn parts_that_do_not_fit_together_are_refused() {
    let parts = Parts::written();
    parts.refused(1, &["it is part 2 of 3; give the first", "-00001-of-00003.gguf"]);
    parts.write(1, &part(2));
    parts.refused(0, &["model-00002-of-00003.gguf: inside, it is number 2 (from 0) of 3 parts"]);
    parts.write(1, &part(1).with("split.count", 4_u16));
    parts.refused(0, &["number 1 (from 0) of 4 parts"]);
    parts.write(1, &part(1).without("split.no"));
    parts.refused(0, &["model-00002-of-00003.gguf: `split.no` is missing"]);
    parts.write(1, &part(1).zeros("more", &[1]));
    parts.refused(0, &["the parts have 3 tensors in all; they have 4"]);
    parts.write(1, &part(1).zeros("tensor 0", &[1]));
    parts.refused(0, &["tensor 0 is there twice", "model-00001", "model-00002"]);
    parts.write(1, &Writer { magic: *b"GGML", ..part(1) });
    parts.refused(0, &["model-00002-of-00003.gguf is damaged"]);
}

#[test]
fn a_wrong_name_or_count_of_the_first_part_is_told() {
    let parts = Parts::written();
    let other = parts.dir.path().join("model.gguf");
    fs::rename(parts.path(0), &other).unwrap();
    let error = read_all(&other).unwrap_err().to_string();
    assert!(
        error.contains("model.gguf: it is the first of 3 parts, so its name must end in -00001-of-00003.gguf"),
        "{error}"
    );
    parts.write(0, &part(0).with("split.count", 1_u64 << 60));
    parts.refused(0, &["`split.count` is 1152921504606846976, but there can be 99999 parts at most"]);
}
