//! GGUF, the format of llama.cpp: one file (or several parts) with metadata, tokenizer and weights, these often quantised.
//!
//! The header becomes a [`file::GgufFile`]; from it come the configuration and the tokenizer in Hugging Face's form ([`config`],
//! [`tokenizer`]), so that the rest of the library reads them as it reads every checkpoint's, and the tensors by Hugging Face's names
//! ([`names`]). [`blocks`] turns quantised bytes into values.

pub(super) mod blocks;
pub(super) mod config;
mod cursor;
pub(super) mod file;
pub(super) mod kind;
pub(super) mod metadata;
pub(super) mod names;
pub(super) mod plan;
mod rope;
pub(super) mod rows;
pub(super) mod split;
pub(super) mod tokenizer;
mod value;

#[cfg(test)]
mod tests;
