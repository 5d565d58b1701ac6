use super::writer::{Typed, list, string};
use super::*;

fn sound() -> Writer {
    Writer::default()
        .with("general.architecture", "llama4")
        .with("texts", &["a", "b"][..])
        .zeros("one", &[2, 8])
        .tensor("two", 8, &[2, 32], vec![0; 68])
}

/// A change to a sound file, and what reading it then says.
type Case = (fn(&mut Writer), &'static str);

const CASES: &[Case] = &[
    (|w| w.magic = *b"GGML", "model.gguf is damaged: it begins with \"GGML\", not with \"GGUF\""),
    (|w| w.version = 1, "model.gguf: version 1 of GGUF (2 and 3 can) cannot be read"),
    (|w| w.version = 4, "version 4 of GGUF"),
    (|w| w.version = 0x0300_0000, "a GGUF file of a big-endian machine cannot be read"),
    (|w| w.tensor_count = Some(1 << 60), "it claims 1152921504606846976 tensors; the file ends after"),
    (|w| w.tensor_count = Some(u64::MAX), "it claims 18446744073709551615 tensors"),
    // The filling behind the header is read as an entry then.
    (|w| w.tensor_count = Some(3), "the file is cut short"),
    (|w| w.key_count = Some(1 << 60), "it claims 1152921504606846976 metadata keys; the file ends after"),
    // The first tensor is read as a key.
    (|w| w.key_count = Some(3), "tensor 0: it is cut short"),
    (|w| w.keys[0].0 = b"texts".to_vec(), "metadata key \"texts\" occurs twice"),
    (|w| w.keys[0].0 = vec![0xff; 4], "metadata key 0: a name is not UTF-8"),
    (|w| w.keys[0].0 = vec![b'k'; 65_536], "metadata key 0: a name of 65536 bytes, at most 65535 are read"),
    (
        |w| w.keys[0].1 = 13_u32.to_le_bytes().to_vec(),
        "metadata key \"general.architecture\": its type 13 is not one of 0 to 12",
    ),
    (
        // A text of 2^63 bytes.
        |w| w.keys[0].1 = [&8_u32.to_le_bytes()[..], &(1_u64 << 63).to_le_bytes()].concat(),
        "it is cut short: 9223372036854775808 bytes are wanted from byte 64 on",
    ),
    (|w| w.keys[0].1 = [&7_u32.to_le_bytes()[..], &[2]].concat(), "a bool is 2, not 0 or 1"),
    (|w| w.keys[0].1 = list(4, 1 << 61, &[]).0, "it claims 2305843009213693952 array elements; the file ends after"),
    (|w| w.keys[0].1 = list(8, 1 << 40, &[0; 8]).0, "it claims 1099511627776 array elements"),
    (|w| w.keys[0].1 = list(8, 1, &u64::MAX.to_le_bytes()).0, "18446744073709551615 bytes are wanted"),
    (|w| w.keys[0].1 = list(9, 1, &list(9, 1, &[]).0[4..]).0, "an array of arrays"),
    (|w| w.set("general.alignment", 0_u32), "`general.alignment` is 0, but it must be a power of two"),
    (|w| w.set("general.alignment", 24_u32), "`general.alignment` is 24, but it must be a power of two"),
    (|w| w.set("general.alignment", "32"), "`general.alignment` is \"32\", but a whole number is wanted"),
    (|w| w.set("general.alignment", 1_u64 << 63), "one: the file is cut short"),
    (|w| w.tensors[0].name = b"two".to_vec(), "two occurs twice"),
    (|w| w.tensors[0].name = vec![0xff], "tensor 0: a name is not UTF-8"),
    (|w| w.tensors[0].name = vec![b'n'; 256], "tensor 0: a name of 256 bytes, at most 255 are read"),
    (|w| w.tensors[0].widths = vec![1; 5], "one: it has 5 axes; there are at most 4"),
    (|w| w.tensors[0].widths = vec![1 << 32, 1 << 32], "one: the size of shape [4294967296, 4294967296] overflows"),
    (|w| w.tensors[0].widths = vec![u64::MAX, 1], "one: the size of shape [1, 18446744073709551615] overflows"),
    (|w| w.tensors[0].widths = vec![0, 1 << 40, 1 << 40], "[1099511627776, 1099511627776, 0] overflows"),
    (|w| w.tensors[0].widths = vec![1 << 40], "one: the file is cut short: it has"),
    (|w| w.tensors[0].id = 4, "model.gguf: ggml's type 4, which one has, cannot be read"),
    (|w| w.tensors[0].id = 99, "ggml's type 99, which one has,"),
    (|w| w.tensors[1].widths = vec![48, 1], "two: a row of 48 values is not a whole number of Q8_0's blocks of 32"),
    (|w| w.tensors[0].id = 12, "one: a row of 8 values is not a whole number of Q4_K's blocks of 256"),
    (|w| w.tensors[1].widths = vec![], "two: a row of 1 values is not a whole number of Q8_0's blocks of 32"),
    (|w| w.tensors[1].offset = Some(65), "two: its offset 65 is not a multiple of 32"),
    (|w| w.tensors[1].offset = Some(0), "overlap"),
    (|w| w.tensors[1].offset = Some(32), "one at bytes"),
    (|w| w.tensors[1].offset = Some(1 << 62), "two: the file is cut short"),
    (|w| w.tensors[1].offset = Some(u64::MAX - 31), "two: the file is cut short"),
    (|w| w.tensors[1].bytes.truncate(32), "two: the file is cut short: it has"),
];

impl Writer {
    fn set(&mut self, key: &str, value: impl Into<Typed>) {
        *self = std::mem::take(self).with(key, value);
    }
}

#[test]
fn every_defect_is_told() {
    read(sound().bytes()).unwrap();
    let mut wrong = Vec::new();
    for (change, part) in CASES {
        let mut writer = sound();
        change(&mut writer);
        let found = read(writer.bytes()).map_or_else(|error| error.to_string(), |_| "no error".to_string());
        if !found.contains(part) {
            wrong.push(format!("{found}\nshould say\n{part}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_file_that_ends_early_is_an_error_wherever_it_ends() {
    let bytes = sound().bytes();
    // The last block is followed by zeros that nothing needs.
    let needed = bytes.len() - 28;
    read(bytes[..needed].to_vec()).unwrap();
    for len in 0..needed {
        let error = read(bytes[..len].to_vec()).map(|_| ()).expect_err("cut short").to_string();
        assert!(error.contains("model.gguf"), "{len}: {error}");
    }
}

#[test]
fn no_changed_byte_gets_past_the_checks_into_a_panic() {
    let bytes = sound().bytes();
    let header = bytes.len() - 64 - 96;
    for position in 0..header {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[position] = value;
            let Ok(file) = read(bytes) else { continue };
            for tensor in &file.tensors {
                assert!(tensor.bytes().len() <= 96, "{}", tensor.name);
            }
            // Reading the values must hold, too.
            let _ = (file.metadata.text("general.architecture"), file.metadata.texts("texts"));
        }
    }
}

#[test]
fn counts_beyond_any_real_file_are_refused_although_they_fit() {
    // Each key as small as can be: no name, and of a type of one byte.
    let count = (1_u64 << 16) + 1;
    let writer = Writer { key_count: Some(count), ..Writer::default() };
    let bytes = [&writer.bytes()[..24], &vec![0; 13 * count as usize]].concat();
    let error = read(bytes).unwrap_err().to_string();
    assert!(error.contains("it claims 65537 metadata keys; at most 65536 are read"), "{error}");

    let count = (1_u64 << 20) + 1;
    let writer = Writer { tensor_count: Some(count), ..Writer::default() };
    let bytes = [&writer.bytes()[..24], &vec![0; 24 * count as usize]].concat();
    let error = read(bytes).unwrap_err().to_string();
    assert!(error.contains("it claims 1048577 tensors; at most 1048576 are read"), "{error}");
}

#[test]
fn a_list_that_is_too_long_is_not_handed_out() {
    let count = (1_u64 << 24) + 1;
    let file = open(&Writer::default().with("tokens", list(8, count, &vec![0; 8 * count as usize])));
    let error = file.metadata.texts("tokens").unwrap_err().to_string();
    assert!(error.contains("`tokens` is a list of 16777217 Text values, but at most 16777216 entries"), "{error}");
    assert_eq!(string(b"").len(), 8);
}
