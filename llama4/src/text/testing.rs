//! A small byte-level tokenizer of the same build as Llama 4's, for tests without the real vocabulary.

use std::sync::OnceLock;

use serde_json::{Value, json};

use super::{Tokenizer, byte_level};

/// An id between two tokens that has none.
pub(super) const GAP: u32 = 290;
pub(super) const BEGIN: u32 = 300;
pub(super) const END_OF_TEXT: u32 = 301;
pub(super) const HEADER_START: u32 = 305;
pub(super) const HEADER_END: u32 = 306;
pub(super) const EOM: u32 = 307;
pub(super) const EOT: u32 = 308;
pub(super) const EOT_TEXT: &str = "<|eot|>";
/// Above every id.
pub(super) const LIMIT: u32 = 320;
pub(super) const VOCAB_SIZE: usize = 256 + MERGES.len() + SPECIALS.len();

const MERGES: [(&str, &str); 9] =
    [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w"), ("o", "r"), ("Ġw", "or"), ("Ċ", "Ċ"), ("à", "¤")];

const SPECIALS: [(&str, u32); 6] = [
    ("<|begin_of_text|>", BEGIN),
    ("<|end_of_text|>", END_OF_TEXT),
    ("<|header_start|>", HEADER_START),
    ("<|header_end|>", HEADER_END),
    ("<|eom|>", EOM),
    (EOT_TEXT, EOT),
];

/// Ids 0 to 255 are the bytes, then come the merges; the specials start at 300.
pub(super) fn tokenizer() -> Tokenizer {
    static SHARED: OnceLock<Tokenizer> = OnceLock::new();
    SHARED.get_or_init(|| Tokenizer::from_bytes(json().to_string().as_bytes()).unwrap()).clone()
}

/// Two words and no decoder: a vocabulary that is not byte-level.
pub(super) fn word_tokenizer() -> Tokenizer {
    let json = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"hello": 0, "world": 1, "?": 2}, "unk_token": "?"},
    });
    Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap()
}

/// The `tokenizer.json` of [`tokenizer`].
pub(super) fn json() -> Value {
    let mut vocab = serde_json::Map::new();
    for byte in 0..=u8::MAX {
        vocab.insert(byte_level::char_of(byte).to_string(), json!(byte));
    }
    for (left, right) in MERGES {
        vocab.insert(format!("{left}{right}"), json!(vocab.len()));
    }
    // Llama 4's own file has no gaps; ids are fixed here by naming the specials in the model's vocabulary as well.
    for (name, id) in SPECIALS {
        vocab.insert(name.to_owned(), json!(id));
    }
    let added: Vec<_> = SPECIALS
        .iter()
        .map(|(name, id)| {
            json!({
                "id": id, "content": name, "special": true, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false
            })
        })
        .collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let begin = SPECIALS[0].0;
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": r" ?\p{L}+|\p{N}{1,3}|\s+(?!\S)|\s+|[^\s\p{L}\p{N}]+"},
             "behavior": "Isolated", "invert": false},
            byte_level,
        ]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": begin, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {begin: {"id": begin, "ids": [BEGIN], "tokens": [begin]}},
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
            "vocab": vocab,
            "merges": MERGES.map(|(left, right)| format!("{left} {right}")),
        },
    })
}
