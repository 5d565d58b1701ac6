//! The real Llama 4 vocabulary against ids made with Meta's own tokenizer.
//!
//! The vocabulary's licence keeps it out of the repository: `cargo xtask real-tokenizer` makes it, and without it the
//! tests here say that they are skipped.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;

use llama4::text::{ChatMessage, ChatTemplate, Tokenizer};
use serde::Deserialize;

#[derive(Deserialize)]
struct Vectors {
    special_tokens: BTreeMap<String, u32>,
    texts: Vec<Text>,
    dialogs: Vec<Dialog>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Dialog {
    messages: Vec<ChatMessage>,
    prompt: String,
    ids: Vec<u32>,
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name)
}

fn vectors() -> Vectors {
    let text = std::fs::read(fixture("real-llama4-vectors.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// The vocabulary, read once; `None` after saying so if it is not there.
fn real(test: &str) -> Option<&'static Tokenizer> {
    static REAL: OnceLock<Option<Tokenizer>> = OnceLock::new();
    let real = REAL
        .get_or_init(|| {
            let dir = fixture("real-tokenizer");
            dir.join("tokenizer.json").exists().then(|| Tokenizer::from_dir(dir).unwrap())
        })
        .as_ref();
    if real.is_none() {
        // Past the capture of the test harness, which hides what a passing test prints.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: {test} needs fixtures/real-tokenizer/tokenizer.json; run `cargo xtask real-tokenizer`"
        );
    }
    real
}

#[test]
fn texts_have_metas_ids() {
    let Some(tokenizer) = real("texts_have_metas_ids") else { return };
    let texts = vectors().texts;
    assert_eq!(texts.len(), 22);
    for Text { text, ids } in texts {
        assert_eq!(tokenizer.encode(&text, false).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.encode_plain(&text, false).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.encode(&text, true).unwrap(), [&[200_000], &ids[..]].concat(), "{text:?}");
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);

        let mut stream = tokenizer.stream(true);
        let mut streamed: String = ids.iter().filter_map(|&id| stream.push(id).unwrap()).collect();
        streamed.extend(stream.finish());
        assert_eq!(streamed, text);
    }
}

#[test]
fn dialogs_have_metas_prompts_and_ids() {
    let Some(tokenizer) = real("dialogs_have_metas_prompts_and_ids") else { return };
    let template = ChatTemplate::default();
    for Dialog { messages, prompt, ids } in vectors().dialogs {
        assert_eq!(template.render(&messages, true).unwrap(), prompt);
        assert_eq!(tokenizer.encode(&prompt, false).unwrap(), ids);
        assert_eq!(tokenizer.encode_chat(&template, &messages, true).unwrap(), ids);
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), prompt);
    }
}

#[test]
fn special_tokens_and_padding_ids() {
    let Some(tokenizer) = real("special_tokens_and_padding_ids") else { return };
    for (name, id) in vectors().special_tokens {
        assert_eq!(tokenizer.id(&name), Some(id), "{name}");
        assert_eq!(tokenizer.token(id).as_deref(), Some(name.as_str()));
        assert!(tokenizer.is_special(id), "{name}");
        assert_eq!(tokenizer.decode(&[id], true).unwrap(), "");
    }
    assert_eq!(tokenizer.begin_id(), Some(200_000));
    assert_eq!(tokenizer.end_ids(None, None), [200_001, 200_007, 200_008]);
    assert_eq!(tokenizer.vocab_size(), 202_048);
    assert_eq!(tokenizer.decode(&[202_048, u32::MAX], false).unwrap(), "");
}

/// A backtracking engine of regular expressions could give up on such runs, and leave the words after them uncut.
#[test]
fn words_after_a_long_run_are_cut_as_ever() {
    let Some(tokenizer) = real("words_after_a_long_run_are_cut_as_ever") else { return };
    let tail = "x I'm can't WE'LL 12345678 aBc\n\n b";
    let tail_ids = tokenizer.encode_plain(tail, false).unwrap();
    for run in [" ", "\t\n", "a", "A", "9", ".", "日"] {
        let text = format!("{}{tail}", run.repeat(100_000));
        let ids = tokenizer.encode_plain(&text, false).unwrap();
        // The run may have taken the x.
        assert!(ids.ends_with(&tail_ids[1..]), "{run:?}");
    }
}
