//! Pickles that would make much of little.

use std::time::{Duration, Instant};

use crate::import::pickle::{PickledTensor, tensors};

/// A state dict's pickle, operation by operation.
struct Pickle(Vec<u8>);

impl Pickle {
    fn new() -> Self {
        Self(vec![0x80, 2])
    }

    fn add(mut self, operations: &[u8]) -> Self {
        self.0.extend_from_slice(operations);
        self
    }

    fn repeat(mut self, operations: &[u8], count: usize) -> Self {
        self.0.extend(operations.repeat(count));
        self
    }

    fn text(self, text: &str) -> Self {
        self.add(b"X").add(&(text.len() as u32).to_le_bytes()).add(text.as_bytes())
    }

    /// Remembers a function under 0 and the arguments of a tensor with this storage and so many axes under 1, and leaves an open
    /// dictionary.
    fn tensor(self, storage: &str, axes: usize) -> Self {
        let function = self.add(b"ctorch._utils\n_rebuild_tensor_v2\nq\x00");
        let storage = function.add(b"((").text("storage").add(b"ctorch\nFloatStorage\n").text(storage).add(b"tQK\x00");
        let shape = storage.add(b"(").repeat(b"K\x01", axes).add(b"t(").repeat(b"K\x01", axes).add(b"t");
        shape.add(b"tq\x01}(")
    }

    #[track_caller]
    fn read(self) -> Result<Vec<PickledTensor>, String> {
        let started = Instant::now();
        let result = tensors(&self.0);
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        result
    }

    #[track_caller]
    fn refused(self, part: &str) {
        let error = self.read().expect_err(part);
        assert!(error.contains(part), "{error}\nshould say\n{part}");
    }
}

#[test]
fn dictionaries_that_are_shared_are_not_followed_without_end() {
    // Eight, each of which holds the next one 64 times: 64^7 entries.
    let mut pickle = Pickle::new().add(b"}q\x00");
    for level in 1..8 {
        let recall = [b"X\x00\x00\x00\x00h", &[level - 1][..]].concat();
        pickle = pickle.add(b"a}").add(&[b'q', level]).add(b"(").repeat(&recall, 64).add(b"u");
    }
    pickle.add(b".").refused("the same values over and over");
    Pickle::new().add(b"}q\x00(X\x00\x00\x00\x00h\x00u.").refused("nested deeper than 8");
}

#[test]
fn a_long_text_that_is_recalled_is_not_copied() {
    // 100 GB, were each a copy.
    let long = "x".repeat(1 << 20);
    let pickle = Pickle::new().text(&long).add(b"q\x00}(").repeat(b"h\x00N", 100_000).add(b"u.");
    assert_eq!(pickle.read(), Ok(Vec::new()));
    Pickle::new().text(&long).add(b"q\x00h\x00\x93").refused("a class whose name has 2097152 bytes");
}

#[test]
fn tensors_are_of_few_axes_and_not_listed_over_and_over() {
    let all = |count| Pickle::new().tensor("0", 2).repeat(b"X\x01\x00\x00\x00ah\x00h\x01R", count).add(b"u.");
    assert_eq!(all(1000).read().unwrap().len(), 1000);
    let one = b"X\x01\x00\x00\x00ah\x00h\x01Ru.";
    Pickle::new().tensor("0", 9).add(one).refused("described in an unusual way");
    // One storage with a long name, of which every tensor's entry would be a copy.
    let long = Pickle::new().tensor(&"0".repeat(4096), 1);
    long.repeat(b"X\x01\x00\x00\x00ah\x00h\x01R", 10_000).add(b"u.").refused("the same values over and over");
}
