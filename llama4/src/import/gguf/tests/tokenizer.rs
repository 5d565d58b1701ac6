use super::writer::Typed;
use super::*;
use crate::import::gguf::tokenizer::{chat_template, tokenizer_json};
use crate::text::Tokenizer;

const TOKENS: [&str; 16] = [
    "h",
    "e",
    "l",
    "o",
    "Ġ",
    "w",
    "he",
    "ll",
    "hell",
    "[PAD9]",
    "hello",
    "Ġw",
    "'",
    "S",
    "<|begin_of_text|>",
    "<tool>",
];
/// Normal, control (3), user defined (4), unused (5).
const TYPES: [i32; 16] = [1, 1, 1, 1, 1, 1, 1, 1, 1, 5, 1, 1, 1, 1, 3, 4];
const MERGES: [&str; 5] = ["h e", "l l", "he ll", "hell o", "Ġ w"];
const BEGIN: u32 = 14;
const TOOL: u32 = 15;

fn bpe() -> Writer {
    Writer::default()
        .with("tokenizer.ggml.model", "gpt2")
        .with("tokenizer.ggml.pre", "llama4")
        .with("tokenizer.ggml.tokens", &TOKENS[..])
        .with("tokenizer.ggml.token_type", &TYPES[..])
        .with("tokenizer.ggml.merges", &MERGES[..])
        .with("tokenizer.ggml.bos_token_id", BEGIN)
}

fn tokenizer(writer: &Writer) -> Tokenizer {
    let json = tokenizer_json(&open(writer)).unwrap().unwrap();
    Tokenizer::from_bytes(&json).unwrap()
}

#[test]
fn a_byte_level_vocabulary_becomes_a_tokenizer() {
    let tokenizer = tokenizer(&bpe());
    assert_eq!(tokenizer.begin_id(), Some(BEGIN));
    assert_eq!(tokenizer.encode("hello well", false).unwrap(), [10, 11, 1, 7]);
    assert_eq!(tokenizer.encode("hello", true).unwrap(), [BEGIN, 10]);
    assert_eq!(tokenizer.encode("<|begin_of_text|>hell<tool>o", false).unwrap(), [BEGIN, 8, TOOL, 3]);
    assert_eq!(tokenizer.decode(&[BEGIN, 10, 11, 3, TOOL], false).unwrap(), "<|begin_of_text|>hello wo<tool>");
    assert_eq!(tokenizer.decode(&[BEGIN, 10, TOOL], true).unwrap(), "hello<tool>");
    assert!(tokenizer.is_special(BEGIN) && !tokenizer.is_special(TOOL));
    assert_eq!((tokenizer.id("[PAD9]"), tokenizer.token(9)), (None, None));
    for (id, token) in TOKENS.iter().enumerate().filter(|(id, _)| *id != 9) {
        assert_eq!(tokenizer.id(token), Some(id as u32), "{token}");
    }
}

#[test]
fn llama_4_and_llama_3_cut_words_differently() {
    // Only o200k's words end where a capital letter begins, and have their contraction.
    let encode = |pre: &str| tokenizer(&bpe().with("tokenizer.ggml.pre", pre)).encode("hello'SS hello", false).unwrap();
    let words = |pre: &str| {
        let ids = encode(pre);
        ids.iter().map(|&id| TOKENS[id as usize]).collect::<Vec<_>>()
    };
    assert_eq!(words("llama4"), ["hello", "'", "S", "S", "Ġ", "hello"]);
    assert_eq!(words("gpt-4o"), words("llama4"));
    assert_eq!(words("llama-bpe"), ["hello", "'", "S", "S", "Ġ", "hello"]);
    let joined = |pre| {
        // "lS" is a token, but no word of o200k's.
        let tokens = [&TOKENS[..], &["lS"]].concat();
        let merges = [&MERGES[..], &["l S"]].concat();
        let types = [&TYPES[..], &[1]].concat();
        let writer = bpe()
            .with("tokenizer.ggml.pre", pre)
            .with("tokenizer.ggml.tokens", &tokens[..])
            .with("tokenizer.ggml.merges", &merges[..])
            .with("tokenizer.ggml.token_type", &types[..]);
        tokenizer(&writer).encode("elS", false).unwrap()
    };
    assert_eq!(joined("llama4"), [1, 2, 13]);
    assert_eq!(joined("llama-bpe"), [1, 16]);
}

#[test]
fn a_text_begins_as_the_file_says() {
    let begin = |writer: &Writer| tokenizer(writer).begin_id();
    assert_eq!(begin(&bpe().with("tokenizer.ggml.add_bos_token", true)), Some(BEGIN));
    assert_eq!(begin(&bpe().with("tokenizer.ggml.add_bos_token", false)), None);
    assert_eq!(begin(&bpe().with("tokenizer.ggml.bos_token_id", TOOL)), Some(TOOL));
    assert_eq!(begin(&bpe().without("tokenizer.ggml.bos_token_id")), Some(BEGIN), "by its name");
    let other: Vec<&str> = TOKENS.iter().map(|&token| if token == TOKENS[14] { "<s>" } else { token }).collect();
    let other = bpe().with("tokenizer.ggml.tokens", &other[..]).without("tokenizer.ggml.bos_token_id");
    assert_eq!(begin(&other), None);
}

#[test]
fn other_kinds_of_vocabularies_are_none() {
    for writer in [
        bpe().without("tokenizer.ggml.model"),
        bpe().with("tokenizer.ggml.model", "no_vocab"),
        bpe().with("tokenizer.ggml.model", "llama"),
    ] {
        assert!(tokenizer_json(&open(&writer)).unwrap().is_none());
    }
}

#[test]
fn a_damaged_vocabulary_is_an_error() {
    fn case(key: &str, value: impl Into<Typed>, part: &str) {
        let error = tokenizer_json(&open(&bpe().with(key, value))).expect_err(part).to_string();
        assert!(error.contains(part), "{error}\nshould say\n{part}");
    }
    for key in ["tokenizer.ggml.tokens", "tokenizer.ggml.merges"] {
        let error = tokenizer_json(&open(&bpe().without(key))).unwrap_err().to_string();
        assert!(error.contains(&format!("`{key}` is missing")), "{error}");
    }
    let unknown = "`tokenizer.ggml.pre` is missing, which is not supported; supported: llama4";
    let error = tokenizer_json(&open(&bpe().without("tokenizer.ggml.pre"))).unwrap_err().to_string();
    assert!(error.contains(unknown), "{error}");
    case("tokenizer.ggml.pre", "qwen2", "`tokenizer.ggml.pre` is \"qwen2\", which is not supported");
    case(
        "tokenizer.ggml.tokens",
        &["a", "a"][..],
        "`tokenizer.ggml.token_type` is a list of 16 I32 values, but there are 2 tokens",
    );
    case("tokenizer.ggml.tokens", &["h"; 16][..], "0 and 1 are both \"h\"");
    case("tokenizer.ggml.merges", &["h e", "he"][..], "\"he\", number 1, must be two tokens that are one together");
    case("tokenizer.ggml.merges", &["h x"][..], "\"h x\", number 0, must be");
    case("tokenizer.ggml.merges", &["e h"][..], "\"e h\", number 0, must be");
    case("tokenizer.ggml.merges", 5_u32, "a list of texts is wanted");
    case("tokenizer.ggml.bos_token_id", 16_u32, "`tokenizer.ggml.bos_token_id` is 16, but there are 16 tokens");
    case("tokenizer.ggml.add_bos_token", 1_u32, "true or false is wanted");
}

#[test]
fn the_chat_template_is_handed_on() {
    assert_eq!(chat_template(&open(&bpe())).unwrap(), None);
    let file = open(&bpe().with("tokenizer.chat_template", "{{ messages }}"));
    assert_eq!(chat_template(&file).unwrap().as_deref(), Some("{{ messages }}"));
    assert!(chat_template(&open(&bpe().with("tokenizer.chat_template", 3_u32))).is_err());
}
