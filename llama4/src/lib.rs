//! Llama 4 (text) for [burn](https://burn.dev): the model, its import, its tokenizer and its generation loop, written
//! once against burn's `Backend` trait.
//!
//! Data goes one way:
//!
//! ```text
//! checkpoint -> config -> import -> nn::Llama4ForCausalLM<B>
//! prompt -> text -> ids -> generate::Session -> nn forward(batch, cache) -> logits -> sampler -> id -> text
//! ```
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use burn_ndarray::NdArray;
//! use llama4::generate::{Request, Session, StopConditions};
//! use llama4::import::{LoadOptions, load};
//! use llama4::text::Tokenizer;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = std::path::Path::new("../fixtures/demo");
//! let device = Default::default();
//! let loaded = load::<NdArray>(dir, &LoadOptions::default(), &device, |_| ControlFlow::Continue(()))?;
//! let tokenizer = Tokenizer::from_dir(dir)?;
//!
//! let mut session = Session::new(&loaded.model, 1, 128).with_tokenizer(&tokenizer);
//! let stop = StopConditions { max_new_tokens: Some(12), ..Default::default() };
//! let request = Request { prompt: tokenizer.encode("The whole family", true)?, stop, ..Default::default() };
//! let answer = session.generate(&request, |_| ControlFlow::Continue(()))?;
//! println!("The whole family{}", answer.text.unwrap_or_default());
//! # assert_eq!(answer.tokens.len(), 12);
//! # Ok(())
//! # }
//! ```

pub mod cache;
pub mod config;
pub mod error;
mod exp;
pub mod generate;
pub mod import;
pub mod memory;
pub mod nn;
pub mod ops;
pub mod quant;
pub mod text;

pub use config::Llama4Config;
pub use nn::Llama4ForCausalLM;
