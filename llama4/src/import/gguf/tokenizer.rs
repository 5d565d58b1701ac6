use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::file::GgufFile;
use crate::error::ImportError;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const MERGES: &str = "tokenizer.ggml.merges";
const TYPES: &str = "tokenizer.ggml.token_type";
const BEGIN_ID: &str = "tokenizer.ggml.bos_token_id";
/// The vocabulary: a token's place in the list is its id.
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";

/// Token of the type "control": parsed in text, left out by decoders.
const CONTROL: i128 = 3;
/// Token of the type "user defined": parsed in text.
const USER_DEFINED: i128 = 4;
/// Filler for an id without a token.
const UNUSED: i128 = 5;

/// The o200k pattern, Llama 4's: words by case with their contraction, up to three digits, punctuation, line ends, spaces.
const O200K: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// Llama 3's pattern, which small models of Llama 4's architecture have.
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// The file's vocabulary as a `tokenizer.json`. `None` where the file has none, or one of a kind that this library cannot use
/// (SentencePiece): ids can be worked with all the same.
///
/// # Errors
/// When it is byte-level BPE and damaged, or cut into words by a pattern that is not known here.
pub(in crate::import) fn tokenizer_json(file: &GgufFile) -> Result<Option<Vec<u8>>, ImportError> {
    let metadata = &file.metadata;
    if metadata.text(MODEL)? != Some("gpt2") {
        return Ok(None);
    }
    let pattern = match metadata.text(PRE)? {
        Some("llama4" | "gpt-4o") => O200K,
        Some("llama-bpe" | "llama3" | "llama-v3") => LLAMA3,
        _ => return Err(metadata.unsupported(PRE, "llama4, gpt-4o, llama-bpe")),
    };
    let tokens = metadata.texts(TOKENS)?.ok_or_else(|| metadata.missing(TOKENS))?;
    let types = metadata.integers(TYPES)?.unwrap_or_default();
    if !types.is_empty() && types.len() != tokens.len() {
        return Err(metadata.invalid(TYPES, &format!("there are {} tokens", tokens.len())));
    }

    let (mut vocab, mut added) = (Map::new(), Vec::new());
    for (id, &token) in tokens.iter().enumerate() {
        let kind = types.get(id).copied().unwrap_or_default();
        if kind == UNUSED {
            continue;
        }
        // Added tokens are in the vocabulary, too: otherwise they would be numbered anew behind it.
        if let Some(first) = vocab.insert(token.to_string(), id.into()) {
            return Err(metadata.invalid(TOKENS, &format!("{first} and {id} are both {token:?}")));
        }
        if kind == CONTROL || kind == USER_DEFINED {
            added.push(json!({
                "id": id, "content": token, "special": kind == CONTROL, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            }));
        }
    }
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            byte_level,
        ]},
        "post_processor": begin_id(file, &tokens)?.map(|id| begins_with(id, tokens[id])),
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            // A word that is a token is taken whole, as tiktoken does, whose vocabularies these are.
            "ignore_merges": true,
            "merges": merges(file, &vocab)?,
            "vocab": vocab,
        },
    });
    Ok(Some(tokenizer.to_string().into_bytes()))
}

/// The chat template, where the file has one.
///
/// # Errors
/// When it is no text.
pub(in crate::import) fn chat_template(file: &GgufFile) -> Result<Option<String>, ImportError> {
    Ok(file.metadata.text("tokenizer.chat_template")?.map(str::to_owned))
}

/// Pairs of tokens whose union is a token.
fn merges(file: &GgufFile, vocab: &Map<String, Value>) -> Result<Vec<[String; 2]>, ImportError> {
    let metadata = &file.metadata;
    let merges = metadata.texts(MERGES)?.ok_or_else(|| metadata.missing(MERGES))?;
    let pair = |(index, merge): (usize, &&str)| {
        let known = |token: &str| vocab.contains_key(token);
        match merge.split_once(' ') {
            Some((left, right)) if known(left) && known(right) && known(&format!("{left}{right}")) => {
                Ok([left.to_string(), right.to_string()])
            }
            _ => {
                let rule = format!("{merge:?}, number {index}, must be two tokens that are one together");
                Err(metadata.invalid(MERGES, &rule))
            }
        }
    };
    merges.iter().enumerate().map(pair).collect()
}

/// What every text begins with: the file's own begin-of-text unless it says that there is none, else Llama 4's by its name.
fn begin_id(file: &GgufFile, tokens: &[&str]) -> Result<Option<usize>, ImportError> {
    let metadata = &file.metadata;
    if metadata.flag("tokenizer.ggml.add_bos_token")? == Some(false) {
        return Ok(None);
    }
    match metadata.token_id(BEGIN_ID)? {
        None => Ok(tokens.iter().position(|&token| token == "<|begin_of_text|>")),
        Some(id) => match usize::try_from(id) {
            Ok(id) if id < tokens.len() => Ok(Some(id)),
            _ => Err(metadata.invalid(BEGIN_ID, &format!("there are {} tokens", tokens.len()))),
        },
    }
}

/// Puts a token in front of every text.
fn begins_with(id: usize, token: &str) -> Value {
    let begin = |kind: usize| json!({"SpecialToken": {"id": token, "type_id": kind}});
    let text = |name: &str, kind: usize| json!({"Sequence": {"id": name, "type_id": kind}});
    let tokens = HashMap::from([(token, json!({"id": token, "ids": [id], "tokens": [token]}))]);
    json!({
        "type": "TemplateProcessing",
        "single": [begin(0), text("A", 0)],
        "pair": [begin(0), text("A", 0), begin(1), text("B", 1)],
        "special_tokens": tokens,
    })
}
