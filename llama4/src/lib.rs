//! Llama 4 (text) for [burn](https://burn.dev): the model, its import, its tokenizer and its generation loop, written
//! once against burn's `Backend` trait.
//!
//! Data goes one way:
//!
//! ```text
//! checkpoint -> config -> import -> nn::Llama4ForCausalLM<B>
//! prompt -> text -> ids -> generate::Session -> nn forward(batch, cache) -> logits -> sampler -> id -> text
//! ```

pub mod cache;
pub mod config;
pub mod error;
pub mod generate;
pub mod import;
pub mod nn;
pub mod ops;
pub mod text;

pub use config::Llama4Config;
pub use nn::Llama4ForCausalLM;
