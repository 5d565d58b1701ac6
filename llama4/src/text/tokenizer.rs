use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tokenizers::decoders::DecoderWrapper;

use super::{StreamDecoder, byte_level};
use crate::error::TextError;

/// Names of Llama 4's end tokens, for checkpoints whose configs name none.
const END_TOKENS: [&str; 3] = ["<|end_of_text|>", "<|eom|>", "<|eot|>"];

/// A vocabulary with its rules, as a checkpoint's `tokenizer.json` defines it.
///
/// Cloning is cheap: clones share the vocabulary. Ids are `u32` and may be any number: a model has more logits than the
/// vocabulary has tokens (Llama 4's are padded to 202,048), so an id without a token decodes to nothing.
#[derive(Clone)]
pub struct Tokenizer {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) inner: tokenizers::Tokenizer,
    /// Pieces spell bytes, and decoding is concatenation.
    pub(super) byte_level: bool,
    /// What encoding puts in front of a text.
    pub(super) begin: Option<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a checkpoint directory.
    ///
    /// # Errors
    /// A directory that has only Meta's `tokenizer.model` gets an error that says how to convert it.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self, TextError> {
        let dir = dir.as_ref();
        let file = dir.join("tokenizer.json");
        if file.exists() {
            return Self::from_file(file);
        }
        // A directory that is not there is an error of its own.
        std::fs::read_dir(dir).map_err(|source| TextError::Read { path: dir.to_owned(), source })?;
        let dir = dir.to_owned();
        Err(if dir.join("tokenizer.model").exists() {
            TextError::OnlyTokenizerModel { dir }
        } else {
            TextError::NoTokenizer { dir }
        })
    }

    /// Reads a `tokenizer.json`.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TextError> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| TextError::Read { path: path.to_owned(), source })?;
        Self::parse(&bytes, &path.display().to_string())
    }

    /// Reads a `tokenizer.json` that is in memory.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TextError> {
        Self::parse(bytes, "the embedded tokenizer")
    }

    fn parse(bytes: &[u8], origin: &str) -> Result<Self, TextError> {
        let wrong = |source| TextError::Tokenizer { origin: origin.to_owned(), source };
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(wrong)?;
        // Both are leftovers of the last use before the file was saved; they would cut or fill prompts silently.
        inner.with_truncation(None).map_err(wrong)?;
        inner.with_padding(None);

        let ids = |add| -> Result<Vec<u32>, TextError> {
            let encoding = inner.encode_fast("a", add).map_err(wrong)?;
            Ok(encoding.get_ids().to_vec())
        };
        let (bare, framed) = (ids(false)?, ids(true)?);
        let begin = match framed.first() {
            Some(first) if framed.len() > bare.len() && bare.first() != Some(first) => Some(*first),
            _ => None,
        };
        let byte_level = match inner.get_decoder() {
            Some(DecoderWrapper::ByteLevel(_)) => true,
            Some(DecoderWrapper::Sequence(steps)) => {
                matches!(steps.get_decoders(), [DecoderWrapper::ByteLevel(_)])
            }
            _ => false,
        };
        Ok(Self { shared: Arc::new(Shared { inner, byte_level, begin }) })
    }

    /// The text of `ids`; with `skip_special` without the special tokens among them.
    ///
    /// Bytes that are not UTF-8 become U+FFFD, and an id without a token becomes nothing.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TextError> {
        self.shared.inner.decode(ids, skip_special).map_err(|source| TextError::Decode { count: ids.len(), source })
    }

    /// A decoder for ids that come one at a time.
    pub fn stream(&self, skip_special: bool) -> StreamDecoder {
        StreamDecoder::new(self.clone(), skip_special)
    }

    /// The vocabulary's own spelling of a token, such as `Ġworld`.
    pub fn token(&self, id: u32) -> Option<String> {
        self.shared.inner.id_to_token(id)
    }

    /// The bytes a token stands for, which need not be whole characters.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let piece = self.token(id)?;
        if !self.shared.byte_level {
            return self.decode(&[id], false).ok().map(String::into_bytes);
        }
        let mut bytes = Vec::with_capacity(piece.len());
        byte_level::push_bytes(&piece, &mut bytes);
        Some(bytes)
    }

    /// The id of a token in the vocabulary's own spelling.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.shared.inner.token_to_id(token)
    }

    /// How many tokens there are, special ones included. Ids can have gaps and can be above this number.
    pub fn vocab_size(&self) -> usize {
        self.shared.inner.get_vocab_size(true)
    }

    /// Whether `skip_special` leaves this id out.
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.shared.inner.get_added_vocabulary();
        added.simple_id_to_token(id).is_some_and(|token| added.is_special_token(&token))
    }

    /// What encoding with `add_special_tokens` puts in front, Llama 4's `<|begin_of_text|>`.
    pub fn begin_id(&self) -> Option<u32> {
        self.shared.begin
    }

    /// All ids that end a text: those of `generation_config.json`, else those of `config.json`, else Llama 4's by name.
    pub fn end_ids(&self, generation_config: Option<&[u32]>, config: Option<&[u32]>) -> Vec<u32> {
        match generation_config.or(config) {
            Some(ids) => ids.to_vec(),
            None => END_TOKENS.iter().filter_map(|name| self.id(name)).collect(),
        }
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("byte_level", &self.shared.byte_level)
            .field("begin", &self.shared.begin)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, BEGIN, EOM, EOT, EOT_TEXT};
    use super::*;

    #[test]
    fn ids_pieces_and_specials() {
        let tokenizer = testing::tokenizer();
        let hello = tokenizer.id("hello").unwrap();
        assert_eq!(tokenizer.token(hello).as_deref(), Some("hello"));
        assert_eq!(tokenizer.id(EOT_TEXT), Some(EOT));
        assert!(tokenizer.is_special(EOT) && !tokenizer.is_special(hello));
        assert_eq!(tokenizer.begin_id(), Some(BEGIN));
        assert_eq!(tokenizer.vocab_size(), testing::VOCAB_SIZE);
        assert_eq!(tokenizer.decode(&[BEGIN, hello, EOT], false).unwrap(), "<|begin_of_text|>hello<|eot|>");
        assert_eq!(tokenizer.decode(&[BEGIN, hello, EOT], true).unwrap(), "hello");
    }

    #[test]
    fn an_id_without_a_token_is_nothing() {
        let tokenizer = testing::tokenizer();
        let hello = tokenizer.id("hello").unwrap();
        for id in [testing::GAP, 202_047, u32::MAX] {
            assert_eq!(tokenizer.token(id), None);
            assert_eq!(tokenizer.token_bytes(id), None);
            assert!(!tokenizer.is_special(id));
            assert_eq!(tokenizer.decode(&[id], false).unwrap(), "");
            assert_eq!(tokenizer.decode(&[hello, id, hello], true).unwrap(), "hellohello");
        }
    }

    #[test]
    fn token_bytes_are_not_characters() {
        let tokenizer = testing::tokenizer();
        let ids = tokenizer.encode("é", false).unwrap();
        let bytes: Vec<_> = ids.iter().map(|&id| tokenizer.token_bytes(id)).collect();
        assert_eq!(bytes, [Some(vec![0xc3]), Some(vec![0xa9])]);
        assert_eq!(tokenizer.token_bytes(EOT).as_deref(), Some(EOT_TEXT.as_bytes()));
    }

    #[test]
    fn end_ids_come_from_the_first_config_that_has_them() {
        let tokenizer = testing::tokenizer();
        assert_eq!(tokenizer.end_ids(Some(&[7, 8]), Some(&[9])), [7, 8]);
        assert_eq!(tokenizer.end_ids(None, Some(&[9])), [9]);
        assert_eq!(tokenizer.end_ids(None, None), [testing::END_OF_TEXT, EOM, EOT]);
    }

    #[test]
    fn truncation_and_padding_of_the_file_are_ignored() {
        let mut json = testing::json();
        json["truncation"] = serde_json::json!({
            "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0
        });
        json["padding"] = serde_json::json!({
            "strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "!"
        });
        let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap();
        let text = "hello hello hello";
        assert_eq!(tokenizer.encode(text, true).unwrap(), testing::tokenizer().encode(text, true).unwrap());
    }

    #[test]
    fn a_directory_says_what_it_lacks() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Tokenizer::from_dir(dir.path().join("nowhere")).unwrap_err();
        assert!(matches!(missing, TextError::Read { .. }), "{missing}");

        let none = Tokenizer::from_dir(dir.path()).unwrap_err();
        assert!(matches!(none, TextError::NoTokenizer { .. }), "{none}");

        std::fs::write(dir.path().join("tokenizer.model"), "IQ== 0\n").unwrap();
        let meta = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
        assert!(meta.contains("cargo xtask real-tokenizer") && meta.contains("transformers"), "{meta}");

        std::fs::write(dir.path().join("tokenizer.json"), "{\"model\": 3}").unwrap();
        let broken = Tokenizer::from_dir(dir.path()).unwrap_err();
        assert!(broken.to_string().ends_with("tokenizer.json is not a tokenizer.json"));

        std::fs::write(dir.path().join("tokenizer.json"), testing::json().to_string()).unwrap();
        Tokenizer::from_dir(dir.path()).unwrap();
    }
}
