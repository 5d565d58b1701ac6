use std::fs;

use burn::tensor::DType;

use super::files::{Checkpoint, RawTensor};
use super::*;
use crate::import::{EmbeddedModel, LoadProgress, WeightsForm};

#[test]
fn every_reader_gives_the_same_bits() {
    // Stacked experts beside dense layers, biases and a tied head.
    for name in ["p1_scout_like", "p2_maverick_like", "p5_ropescaled_bias_tied_gqa4"] {
        let streamed = load_with(golden(name), Loader::Streamed).unwrap();
        let recorded = load_with(golden(name), Loader::Recorder).unwrap();
        assert_same(&streamed.model, &recorded.model);
        assert_eq!(streamed.report.dtypes, recorded.report.dtypes);

        let shards = Checkpoint::of(name).sharded(3);
        let sharded = load(shards.path()).unwrap();
        assert_eq!(sharded.report.form, WeightsForm::ShardedSafetensors);
        assert_same(&streamed.model, &sharded.model);
    }
}

#[test]
fn an_embedded_model_is_the_model_of_the_folder() {
    let read = |name| -> &'static [u8] { fs::read(golden("p3_chunked").join(name)).unwrap().leak() };
    let files = EmbeddedModel {
        config_json: read("config.json"),
        weights: read("model.safetensors"),
        generation_config_json: None,
        tokenizer_json: None,
        chat_template: None,
    };
    let embedded = load(files).unwrap();
    assert_eq!(embedded.report.form, WeightsForm::Embedded);
    assert_same(&embedded.model, &load(golden("p3_chunked")).unwrap().model);
    let error = error_of(EmbeddedModel { weights: &files.weights[..files.weights.len() - 1], ..files });
    assert!(error.contains("the embedded model") && error.contains("cut short"), "{error}");
}

#[test]
fn prefixes_are_stripped_and_vision_is_skipped_and_counted() {
    let plain = load(golden("p1_scout_like")).unwrap().model;
    let llama4 = |name: &str| format!("language_model.{name}");
    let newer = |name: &str| match name.strip_prefix("model.") {
        Some(rest) => format!("model.language_model.{rest}"),
        None => name.to_string(),
    };
    for before_vision in ["", "model."] {
        let mut checkpoint = Checkpoint::of("p1_scout_like");
        for tensor in &mut checkpoint.tensors {
            tensor.name = if before_vision.is_empty() { llama4(&tensor.name) } else { newer(&tensor.name) };
        }
        // One has the name of a text parameter in it, one a type that nothing here can read.
        for (name, dtype, width) in [
            ("vision_model.model.layers.0.self_attn.q_proj.weight", "BF16", 2),
            ("vision_model.layers.x.weight", "F32", 4),
            ("multi_modal_projector.linear_1.weight", "F32", 4),
        ] {
            checkpoint.tensors.push(RawTensor::new(&format!("{before_vision}{name}"), dtype, &[3, 2], width));
        }
        let checkpoint = checkpoint.written();
        for loader in [Loader::Streamed, Loader::Recorder, Loader::Auto] {
            let Loaded { model, report } = load_with(checkpoint.path(), loader).unwrap();
            assert_eq!((report.skipped_vision, report.tensors), (3, 51), "{loader:?}");
            assert_same(&plain, &model);
        }
    }
}

#[test]
fn vision_tensors_may_be_of_any_type() {
    let mut checkpoint = Checkpoint::of("p1_scout_like");
    checkpoint.tensors.push(RawTensor::new("vision_model.mask", "BOOL", &[5], 1));
    checkpoint.tensors.push(RawTensor::new("vision_model.scale", "F8_E4M3", &[5], 1));
    checkpoint.tensors.push(RawTensor::new("vision_model.new", "F7_NEW", &[5], 3));
    let report = load(checkpoint.written().path()).unwrap().report;
    assert_eq!(report.skipped_vision, 3);
}

#[test]
fn a_tied_model_may_repeat_its_embedding_as_head_but_nothing_else() {
    let mut checkpoint = Checkpoint::of("p5_ropescaled_bias_tied_gqa4");
    let mut head = checkpoint.tensor("model.embed_tokens.weight").clone();
    head.name = "lm_head.weight".to_string();
    checkpoint.tensors.push(head);
    let mut checkpoint = checkpoint.written();
    for loader in [Loader::Streamed, Loader::Recorder] {
        let model = load_with(checkpoint.path(), loader).unwrap().model;
        assert_same(&model, &load(golden("p5_ropescaled_bias_tied_gqa4")).unwrap().model);
    }

    checkpoint.tensor("lm_head.weight").bytes[0] ^= 1;
    let error = error_of(checkpoint.written().path());
    assert!(error.contains("1 tensor has no place in it (lm_head.weight)"), "{error}");
}

#[test]
fn half_precision_files_load() {
    let mut checkpoint = Checkpoint::of("p1_scout_like");
    for tensor in &mut checkpoint.tensors {
        tensor.dtype = "F16".to_string();
        for value in tensor.bytes.as_chunks_mut::<2>().0 {
            let small = half::bf16::from_le_bytes(*value).to_f32();
            *value = half::f16::from_f32(small).to_le_bytes();
        }
    }
    let checkpoint = checkpoint.written();
    let streamed = load_with(checkpoint.path(), Loader::Streamed).unwrap().model;
    assert_same(&streamed, &load_with(checkpoint.path(), Loader::Recorder).unwrap().model);
}

#[test]
fn a_type_that_the_backend_lacks_is_refused() {
    let options = LoadOptions { dtype: Some(DType::BF16), ..LoadOptions::default() };
    let device = Default::default();
    let loaded =
        crate::import::load::<TestBackend>(golden("p1_scout_like"), &options, &device, |_| ControlFlow::Continue(()));
    let error = loaded.unwrap_err().to_string();
    assert!(error.contains("BF16") && error.contains("ndarray"), "{error}");
}

#[test]
fn progress_goes_from_nothing_to_everything() {
    for loader in [Loader::Streamed, Loader::Recorder] {
        let mut seen = Vec::new();
        let options = LoadOptions { loader, ..LoadOptions::default() };
        let report = crate::import::load::<TestBackend>(
            golden("p2_maverick_like"),
            &options,
            &Default::default(),
            |progress: LoadProgress<'_>| {
                seen.push((progress.bytes_done, progress.bytes_total));
                ControlFlow::Continue(())
            },
        )
        .unwrap()
        .report;
        assert!(seen.is_sorted() && seen.len() >= 2, "{seen:?}");
        assert_eq!(seen[0], (0, report.bytes));
        assert_eq!(seen[seen.len() - 1], (report.bytes, report.bytes));
    }
}

#[test]
fn loading_stops_where_it_is_told_to() {
    for (loader, calls) in [(Loader::Streamed, 7), (Loader::Recorder, 1)] {
        let mut left = calls;
        let options = LoadOptions { loader, ..LoadOptions::default() };
        let loaded =
            crate::import::load::<TestBackend>(golden("p1_scout_like"), &options, &Default::default(), |progress| {
                assert!(left > 0, "called again after it had said to stop");
                left -= 1;
                if left == 0 {
                    assert_eq!(progress.bytes_done > 0, calls > 1);
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            });
        assert!(matches!(loaded, Err(ImportError::Cancelled { .. })), "{loaded:?}");
    }
}

#[test]
fn what_goes_with_the_weights_is_read_where_it_is_there() {
    let bare = crate::import::Checkpoint::open(golden("p1_scout_like")).unwrap();
    assert!(bare.generation_config().unwrap().is_none());
    assert!(bare.tokenizer().unwrap().is_none());
    assert!(bare.chat_template().unwrap().is_none());

    let full = Checkpoint::of("p1_scout_like").written();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/demo");
    for name in ["generation_config.json", "tokenizer.json"] {
        fs::copy(demo.join(name), full.file(name)).unwrap();
    }
    fs::write(full.file("chat_template.jinja"), "{{ messages[0].content }}").unwrap();
    let opened = crate::import::Checkpoint::open(full.path()).unwrap();
    assert!(opened.generation_config().unwrap().is_some());
    assert!(opened.tokenizer().unwrap().is_some());
    assert_eq!(opened.chat_template().unwrap().unwrap().source(), "{{ messages[0].content }}");
    fs::write(full.file("tokenizer.json"), "{").unwrap();
    assert!(opened.tokenizer().is_err());

    let read = |name: &str| -> &'static [u8] { fs::read(full.file(name)).unwrap().leak() };
    let embedded = crate::import::Checkpoint::open(EmbeddedModel {
        config_json: read("config.json"),
        weights: read("model.safetensors"),
        generation_config_json: Some(read("generation_config.json")),
        tokenizer_json: Some(fs::read(demo.join("tokenizer.json")).unwrap().leak()),
        chat_template: Some("hello"),
    })
    .unwrap();
    assert!(embedded.generation_config().unwrap().is_some());
    assert!(embedded.tokenizer().unwrap().is_some());
    assert_eq!(embedded.chat_template().unwrap().unwrap().source(), "hello");
}
