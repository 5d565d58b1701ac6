use super::{Tokenizer, byte_level};
use crate::error::TextError;

/// Turns ids into text one at a time, for printing while a model writes.
///
/// Text is given out in whole characters, as soon as they are complete; the parts together are what
/// [`Tokenizer::decode`] gives for all ids at once. It holds a (cheap) clone of the tokenizer, so it can be kept beside a
/// session.
///
/// For a byte-level vocabulary, which Llama 4's is, a step costs as much as its token is long and at most three bytes are
/// held back. Other vocabularies are decoded again from the last text given out; there a run that never becomes text
/// costs the square of its length.
#[derive(Debug, Clone)]
pub struct StreamDecoder {
    tokenizer: Tokenizer,
    skip_special: bool,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    /// The bytes of a character that is not complete.
    Bytes(Vec<u8>),
    /// What `tokenizers` keeps between two steps.
    Window { ids: Vec<u32>, prefix: String, prefix_index: usize },
}

impl StreamDecoder {
    pub(super) fn new(tokenizer: Tokenizer, skip_special: bool) -> Self {
        let state = if tokenizer.shared.byte_level {
            State::Bytes(Vec::new())
        } else {
            State::Window { ids: Vec::new(), prefix: String::new(), prefix_index: 0 }
        };
        Self { tokenizer, skip_special, state }
    }

    /// Takes the next id and gives the text that is now certain; `None` if there is none yet.
    ///
    /// # Errors
    /// Only for a vocabulary that is not byte-level, if its decoder takes back text that it gave before.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TextError> {
        let Some(piece) = self.tokenizer.token(id) else {
            return Ok(None);
        };
        if self.skip_special && self.tokenizer.is_special(id) {
            return Ok(None);
        }
        match &mut self.state {
            State::Bytes(pending) => {
                byte_level::push_bytes(&piece, pending);
                let text = take_text(pending);
                Ok((!text.is_empty()).then_some(text))
            }
            State::Window { ids, prefix, prefix_index } => tokenizers::step_decode_stream(
                &self.tokenizer.shared.inner,
                vec![id],
                self.skip_special,
                ids,
                prefix,
                prefix_index,
            )
            .map_err(|source| TextError::Decode { count: 1, source }),
        }
    }

    /// Gives what is held back, with U+FFFD for a character that stayed incomplete, and starts over.
    pub fn finish(&mut self) -> Option<String> {
        let text = match &mut self.state {
            State::Bytes(pending) => {
                // `take_text` leaves nothing but the beginning of one character.
                let cut = !pending.is_empty();
                pending.clear();
                cut.then(|| char::REPLACEMENT_CHARACTER.to_string())
            }
            State::Window { ids, prefix, .. } => self
                .tokenizer
                .decode(ids, self.skip_special)
                .ok()
                .and_then(|text| text.strip_prefix(prefix.as_str()).map(str::to_owned)),
        };
        *self = Self::new(self.tokenizer.clone(), self.skip_special);
        text.filter(|text| !text.is_empty())
    }
}

/// Takes all text off the front of `pending`, with U+FFFD for bytes that can no longer become a character. Left behind is
/// the beginning of a character, if the bytes end in one.
fn take_text(pending: &mut Vec<u8>) -> String {
    let mut text = String::with_capacity(pending.len());
    let mut start = 0;
    loop {
        let rest = &pending[start..];
        let error = match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                start = pending.len();
                break;
            }
            Err(error) => error,
        };
        let valid = error.valid_up_to();
        text.push_str(&String::from_utf8_lossy(&rest[..valid]));
        start += valid;
        match error.error_len() {
            None => break,
            Some(wrong) => {
                text.push(char::REPLACEMENT_CHARACTER);
                start += wrong;
            }
        }
    }
    pending.drain(..start);
    text
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, EOT, GAP};
    use super::*;
    use proptest::prelude::*;

    /// The parts that a stream gives for `ids`, the last one from `finish`.
    fn parts(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> Vec<String> {
        let mut stream = tokenizer.stream(skip_special);
        let mut parts: Vec<_> = ids.iter().filter_map(|&id| stream.push(id).unwrap()).collect();
        parts.extend(stream.finish());
        assert!(parts.iter().all(|part| !part.is_empty()));
        assert_eq!(stream.finish(), None, "finish starts over");
        parts
    }

    #[test]
    fn characters_come_whole() {
        let tokenizer = testing::tokenizer();
        for text in ["日本語のテキスト", "👩‍👩‍👧‍👦 🎉", "é😀ß", "a\u{301}", "hello"] {
            // One token a byte here, so every character is cut by tokens.
            let ids = tokenizer.encode(text, false).unwrap();
            let parts = parts(&tokenizer, &ids, true);
            assert_eq!(parts.concat(), text);
            assert!(!parts.iter().any(|part| part.contains('\u{fffd}')));
        }
        let ids = tokenizer.encode("日本", false).unwrap();
        assert_eq!(parts(&tokenizer, &ids, true), ["日", "本"]);
    }

    #[test]
    fn a_character_cut_off_is_replaced_at_the_end_or_when_it_breaks() {
        let tokenizer = testing::tokenizer();
        let emoji = tokenizer.encode("😀", false).unwrap();
        let hello = tokenizer.id("hello").unwrap();
        assert_eq!(parts(&tokenizer, &emoji[..3], true), ["\u{fffd}"]);
        assert_eq!(parts(&tokenizer, &[emoji[0], emoji[1], hello], true), ["\u{fffd}hello"]);
        // Alone in the middle of nowhere: each continuation byte is one error.
        assert_eq!(parts(&tokenizer, &emoji[2..], true), ["\u{fffd}", "\u{fffd}"]);
    }

    #[test]
    fn ids_without_text_give_none() {
        let tokenizer = testing::tokenizer();
        let emoji = tokenizer.encode("😀", false).unwrap();
        let mut stream = tokenizer.stream(true);
        for id in [GAP, EOT, u32::MAX, emoji[0], GAP, emoji[1], EOT, emoji[2]] {
            assert_eq!(stream.push(id).unwrap(), None);
        }
        assert_eq!(stream.push(emoji[3]).unwrap().as_deref(), Some("😀"));
        assert_eq!(stream.finish(), None);
    }

    #[test]
    fn an_endless_run_of_broken_bytes_holds_nothing_back() {
        let tokenizer = testing::tokenizer();
        let byte = tokenizer.encode("é", false).unwrap()[1];
        let mut stream = tokenizer.stream(true);
        for _ in 0..10_000 {
            assert_eq!(stream.push(byte).unwrap().as_deref(), Some("\u{fffd}"));
        }
    }

    #[test]
    fn a_vocabulary_of_words_streams_too() {
        let tokenizer = testing::word_tokenizer();
        let ids = [0, 1, 9, 0];
        let all = tokenizer.decode(&ids, true).unwrap();
        assert_eq!(all, "hello world hello");
        assert_eq!(parts(&tokenizer, &ids, true).concat(), all);
    }

    proptest! {
        #[test]
        fn parts_add_up_to_the_whole(
            ids in prop::collection::vec(0..testing::LIMIT, 0..40),
            skip_special: bool,
        ) {
            let tokenizer = testing::tokenizer();
            let all = tokenizer.decode(&ids, skip_special).unwrap();
            prop_assert_eq!(parts(&tokenizer, &ids, skip_special).concat(), all);
        }

        #[test]
        fn text_survives_the_way_there_and_back(text in "\\PC*") {
            let tokenizer = testing::tokenizer();
            let ids = tokenizer.encode_plain(&text, false).unwrap();
            prop_assert_eq!(parts(&tokenizer, &ids, true).concat(), text);
        }
    }
}
