//! Text to ids and back: tokenizer, chat template, streaming decoder.
//!
//! A raw prompt is encoded with [`Tokenizer::encode`] and gets its begin-of-text from the tokenizer. A conversation goes
//! through a [`ChatTemplate`], which writes begin-of-text itself, so [`Tokenizer::encode_chat`] adds none. Generated ids
//! become text again with a [`StreamDecoder`].

mod byte_level;
mod chat;
mod chat_files;
mod encode;
mod json;
mod stream;
mod template_env;
#[cfg(test)]
mod testing;
mod tokenizer;

pub use chat::{ChatMessage, ChatTemplate};
pub use stream::StreamDecoder;
pub use tokenizer::Tokenizer;
