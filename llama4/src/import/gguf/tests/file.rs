use super::writer::Typed;
use super::*;
use crate::import::gguf::kind::GgmlType;

#[test]
fn every_type_of_value_is_read() {
    let writer = Writer::default()
        .with("u8", 200_u8)
        .with("i8", -5_i8)
        .with("u16", 60_000_u16)
        .with("i16", 7_i16)
        .with("u32", 4_000_000_000_u32)
        .with("i32", 9_i32)
        .with("u64", u64::MAX)
        .with("i64", 1_i64)
        .with("f32", 1e-5_f32)
        .with("f64", 0.25_f64)
        .with("bool", true)
        .with("text", "Ġhé")
        .with("texts", &["a", "", "ß"][..])
        .with("integers", &[1_i32, -2][..])
        .with("layers", &[8_u32, 8][..])
        .with("empty", &[][..] as &[u32]);
    for version in [2, 3] {
        let file = open(&Writer { version, ..writer.clone() });
        let metadata = &file.metadata;
        for (key, number) in [("u8", 200), ("u16", 60_000), ("i16", 7), ("u32", 4_000_000_000), ("i32", 9), ("i64", 1)]
        {
            assert_eq!(metadata.whole(key).unwrap(), Some(number), "{key}");
        }
        assert_eq!(metadata.whole("u64").unwrap(), Some(usize::MAX));
        assert_eq!(metadata.number("i8").unwrap(), Some(-5.0));
        assert_eq!(metadata.number("f32").unwrap(), Some(1e-5), "the decimal that was written, not its nearest f32");
        assert_eq!(metadata.number("f64").unwrap(), Some(0.25));
        assert_eq!(metadata.flag("bool").unwrap(), Some(true));
        assert_eq!(metadata.text("text").unwrap(), Some("Ġhé"));
        assert_eq!(metadata.texts("texts").unwrap(), Some(vec!["a", "", "ß"]));
        assert_eq!(metadata.integers("integers").unwrap(), Some(vec![1, -2]));
        assert_eq!(metadata.whole("layers").unwrap(), Some(8), "the same for every layer");
        assert_eq!(metadata.texts("nowhere").unwrap(), None);
        assert_eq!(metadata.number("nowhere").unwrap(), None);
    }
}

#[test]
fn a_value_of_another_type_is_named_with_what_is_wanted() {
    let file = open(
        &Writer::default()
            .with("text", "eight")
            .with("negative", -1_i32)
            .with("layers", &[8_u32, 4][..])
            .with("texts", &["a"][..])
            .with("nan", f32::NAN)
            .with("bytes", Typed(b"\x08\0\0\0\x01\0\0\0\0\0\0\0\xff".to_vec()))
            .with("long", &"é".repeat(100)[..]),
    );
    let metadata = &file.metadata;
    let cases = [
        (metadata.whole("text").err(), "model.gguf: `text` is \"eight\", but a whole number is wanted"),
        (metadata.whole("negative").err(), "`negative` is -1, but a whole number is wanted"),
        (
            metadata.whole("layers").err(),
            "`layers` is a list of 2 U32 values, which is not supported; supported: the same",
        ),
        (metadata.whole("texts").err(), "`texts` is a list of 1 Text values, but a whole number"),
        (metadata.number("nan").err(), "`nan` is NaN, but a finite number is wanted"),
        (metadata.flag("text").err(), "`text` is \"eight\", but true or false is wanted"),
        (metadata.text("layers").err(), "`layers` is a list of 2 U32 values, but a text is wanted"),
        (metadata.text("bytes").err(), "`bytes` is a text, but it must be UTF-8"),
        (metadata.texts("layers").err(), "a list of texts is wanted"),
        (metadata.integers("texts").err(), "a list of whole numbers is wanted"),
        (metadata.token_id("negative").err(), "nothing"),
        (metadata.token_id("text").err(), "`text` is \"eight\", but token ids are whole numbers below 2^32"),
        (metadata.flag("long").err(), "é\"…, but"),
        (metadata.required_whole("nowhere").err(), "model.gguf: `nowhere` is missing"),
        (metadata.required_number("nowhere").err(), "`nowhere` is missing"),
    ];
    for (error, part) in cases {
        let error = error.map_or_else(|| "nothing".to_string(), |error| error.to_string());
        assert!(error.contains(part), "{error}\nshould say\n{part}");
    }
}

#[test]
fn tensors_are_found_with_their_axes_turned() {
    let data = |first: u8, len| (0..len).map(|index| first + index).collect::<Vec<u8>>();
    for alignment in [1, 8, 32, 4096] {
        let writer = Writer { alignment, ..Writer::default() }
            .with("general.alignment", alignment as u32)
            .tensor("matrix", 0, &[2, 3], data(1, 24))
            .tensor("scalar", 1, &[], data(50, 2))
            .tensor("blocks", 8, &[2, 32], data(80, 68))
            .tensor("none", 0, &[0, 5], vec![])
            .tensor("other", 19, &[256], data(150, 50));
        let file = open(&writer);
        assert_eq!(file.tensors.len(), 5);
        let about = |name: &str| {
            let tensor = file.tensor(name).unwrap();
            (tensor.kind.to_string(), tensor.shape.clone(), tensor.bytes().to_vec())
        };
        assert_eq!(about("matrix"), ("F32".to_string(), vec![2, 3], data(1, 24)));
        assert_eq!(about("scalar"), ("F16".to_string(), vec![], data(50, 2)));
        assert_eq!(about("blocks"), ("Q8_0".to_string(), vec![2, 32], data(80, 68)));
        assert_eq!(about("none"), ("F32".to_string(), vec![0, 5], vec![]));
        assert_eq!(about("other"), ("IQ1_S".to_string(), vec![256], data(150, 50)));
        assert!(file.tensor("blocks").unwrap().kind.is_read());
        assert!(!file.tensor("other").unwrap().kind.is_read());
    }
}

#[test]
fn tensors_may_stand_in_any_order_and_apart() {
    let mut writer = Writer::default().zeros("a", &[8]).zeros("b", &[8]).zeros("c", &[8]);
    writer.tensors[0].offset = Some(64);
    writer.tensors[2].offset = Some(0);
    let file = open(&writer);
    let names: Vec<_> = file.tensors.iter().map(|tensor| &*tensor.name).collect();
    assert_eq!(names, ["c", "b", "a"]);
}

#[test]
fn every_known_type_has_one_number_and_a_size() {
    let mut names = Vec::new();
    for id in 0..64 {
        let Some(kind) = GgmlType::from_id(id) else { continue };
        assert!(kind.block_values() > 0 && kind.block_bytes() > 0, "{kind}");
        names.push(kind.to_string());
    }
    assert_eq!(names.len(), GgmlType::READ.len() + 25);
    names.sort();
    names.dedup();
    assert_eq!(names.len(), GgmlType::READ.len() + 25, "a name occurs twice");
}
