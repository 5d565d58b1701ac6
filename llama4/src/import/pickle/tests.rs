use super::*;

/// Protocol 2, then what is given, then the end.
fn pickle(parts: &[&[u8]]) -> Vec<u8> {
    [&[0x80, 2][..], &parts.concat(), b"."].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// A call of `_rebuild_tensor_v2` with two rows of three out of storage 7.
fn tensor() -> Vec<u8> {
    [b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec(), tensor_arguments(), b"R".to_vec()].concat()
}

fn tensor_arguments() -> Vec<u8> {
    let storage = [
        b"(".to_vec(),
        text("storage"),
        b"ctorch\nHalfStorage\n".to_vec(),
        text("7"),
        text("cpu"),
        b"K\x06tQ".to_vec(),
    ];
    [b"(".to_vec(), storage.concat(), b"K\x00K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n)Rt".to_vec()]
        .concat()
}

fn names(pickle: &[u8]) -> Result<Vec<String>, String> {
    tensors(pickle).map(|tensors| tensors.into_iter().map(|tensor| tensor.name).collect())
}

#[test]
fn a_tensor_is_described() {
    let found = tensors(&pickle(&[b"}", &text("a"), b"}", &text("b"), &tensor(), b"ss"])).unwrap();
    let expected = PickledTensor {
        name: "a.b".to_string(),
        storage_type: "HalfStorage".to_string(),
        storage: "7".to_string(),
        offset: 0,
        shape: vec![2, 3],
        strides: vec![3, 1],
    };
    assert_eq!(found, [expected]);
}

#[test]
fn buffers_of_bytes_and_what_else_is_no_tensor_are_passed_over() {
    let buffer = |bytes: &[u8]| [b"c_io\nBytesIO\n)\x81", bytes, b"K\x00N\x87b"].concat();
    let encoded = [b"c_codecs\nencode\n".to_vec(), text("\u{0}\u{e9}"), text("latin1"), b"\x86R".to_vec()].concat();
    let values = [
        // As protocol 2 writes bytes, none of them, and later protocols with lengths of 1, 4 and 8 bytes
        buffer(&encoded),
        buffer(b"c__builtin__\nbytes\n)R"),
        buffer(b"C\x03abc"),
        buffer(b"B\x03\0\0\0abc"),
        buffer(b"\x8e\x03\0\0\0\0\0\0\0abc"),
        b"\x96\x03\0\0\0\0\0\0\0abc".to_vec(),
        // A class with arguments by name; a set, two ways; a list; numbers; none
        b"cnumpy\nndarray\n)}\x92".to_vec(),
        b"\x8f(K\x01K\x02\x90".to_vec(),
        b"(K\x01\x91".to_vec(),
        b"](K\x01G\0\0\0\0\0\0\0\0eN\x88\x86a".to_vec(),
        b"\x8a\x0a0123456789".to_vec(),
        b"\x8b\x02\0\0\0ab".to_vec(),
        b"K\x010N".to_vec(),
        b"(K\x011N".to_vec(),
    ];
    for value in values {
        let found =
            names(&pickle(&[b"}(", &text("before"), &tensor(), &text("x"), &value, &text("after"), &tensor(), b"u"]));
        assert_eq!(found.as_deref(), Ok(&["before".to_string(), "after".to_string()][..]), "{}", value.escape_ascii());
    }
}

#[test]
fn tensors_with_attributes_and_parameters_are_tensors() {
    let typed = [
        b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\nctorch\nTensor\n".to_vec(),
        tensor_arguments(),
        b"}tR".to_vec(),
    ];
    let plain = [b"ctorch._utils\n_rebuild_parameter\n(".to_vec(), tensor(), b"\x88NtR".to_vec()];
    let with_state = [b"ctorch._utils\n_rebuild_parameter_with_state\n(".to_vec(), tensor(), b"\x88N}tR".to_vec()];
    for value in [typed, plain, with_state] {
        let found = tensors(&pickle(&[b"}", &text("x"), &value.concat(), b"s"])).unwrap();
        assert_eq!((found.len(), &found[0].shape), (1, &vec![2, 3]));
    }
}

#[test]
fn nothing_that_a_pickle_names_is_run() {
    let dir = tempfile::tempdir().unwrap();
    let witness = dir.path().join("ran");
    let command = text(&format!("touch {}", witness.display()));
    for function in ["cos\nsystem\n", "cposix\nsystem\n", "c__builtin__\neval\n", "csubprocess\ncall\n"] {
        let call = [function.as_bytes(), b"(", &command, b"tR"].concat();
        // Among tensors it is passed over, as all there is it is no dictionary.
        let found = names(&pickle(&[b"}(", &text("x"), &call, &text("weight"), &tensor(), b"u"]));
        assert_eq!(found.as_deref(), Ok(&["weight".to_string()][..]));
        assert!(names(&pickle(&[&call])).unwrap_err().contains("not a dictionary"));
        // What it would return is not called either.
        assert!(names(&pickle(&[&call, b")R"])).unwrap_err().contains("not a function"));
    }
    assert!(!witness.exists());
}

#[test]
fn values_that_are_listed_over_and_over_are_refused() {
    // Each dictionary holds the one before a hundred times: a hundred million tensors by a short text.
    let mut bomb = [b"}".to_vec(), text("x"), tensor(), b"sq\x00".to_vec()].concat();
    for level in 0..5_u8 {
        bomb.extend(b"}(");
        for key in 0..100 {
            bomb.extend(text(&key.to_string()));
            bomb.extend([b'h', level]);
        }
        bomb.extend([b'u', b'q', level + 1]);
    }
    assert!(names(&pickle(&[&bomb])).unwrap_err().contains("over and over"));

    // A name of a megabyte for each of many tensors.
    let mut names_bomb = [text(&"n".repeat(1 << 20)), b"q\x00".to_vec(), tensor(), b"q\x01}(".to_vec()].concat();
    (0..100_000).for_each(|_| names_bomb.extend(b"h\x00h\x01"));
    names_bomb.push(b'u');
    assert!(names(&pickle(&[&names_bomb])).unwrap_err().contains("over and over"));

    // A dictionary in itself.
    assert!(names(&pickle(&[b"}q\x00", &text("x"), b"h\x00s"])).unwrap_err().contains("nested deeper than 8"));
    // A class by a name that is put together from large texts.
    let class = [text(&"m".repeat(1 << 20)), b"q\x00h\x00\x93".to_vec()].concat();
    assert!(names(&pickle(&[&class])).unwrap_err().contains("2097152 bytes"));
    // A tensor of a thousand dimensions.
    let sizes = [&b"("[..], &b"K\x01".repeat(1000), b"t"].concat();
    let many = [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nHalfStorage\n".to_vec(),
        text("7"),
        b"tK\x00".to_vec(),
        sizes.clone(),
        sizes,
        b"tR".to_vec(),
    ];
    assert!(names(&pickle(&[b"}", &text("x"), &many.concat(), b"s"])).unwrap_err().contains("unusual"));
}

#[test]
fn no_change_of_a_pickle_makes_it_panic() {
    let buffer = b"c_io\nBytesIO\n)\x81C\x03abcK\x00N\x87b";
    let whole =
        pickle(&[b"}(", &text("a"), &tensor(), &text("b"), buffer, &text("c"), b"}", &text("d"), &tensor(), b"su"]);
    assert_eq!(names(&whole).unwrap(), ["a", "c.d"]);
    for len in 0..whole.len() {
        assert!(names(&whole[..len]).is_err(), "cut at {len}");
    }
    let mut changed = whole.clone();
    for position in 0..whole.len() {
        for byte in 0..=255 {
            changed[position] = byte;
            let _ = names(&changed);
        }
        changed[position] = whole[position];
    }
}
