//! What a model is: Hugging Face's `config.json` as found on disk, read into one validated [`Llama4Config`].
//!
//! ```text
//! config.json -> HfConfig -> Llama4Config   (what the model is)
//!         a user's wishes -> PipelineConfig (how it is to be run)
//! ```
//!
//! ```
//! use llama4::config::{HfConfig, Llama4Config, PipelineConfig};
//!
//! let text = Llama4Config::scout().to_hf_json().to_string();
//! let pipeline = PipelineConfig { max_seq_len: Some(8192), ..PipelineConfig::default() };
//! let config = Llama4Config::initialize(&pipeline, &HfConfig::from_json(&text)?)?;
//! assert_eq!(config, Llama4Config::scout());
//! # Ok::<(), llama4::error::ConfigError>(())
//! ```
#![doc = include_str!("counterparts.md")]

mod encoding;
mod generation;
mod hf;
mod initialize;
mod kv;
mod model;
mod parameters;
mod pipeline;
mod presets;
mod quant;
mod returns;
mod validate;
pub(crate) mod words;

pub use encoding::{DeviceRef, QuantizationConfig, QuantizationEncoding, SupportedEncoding};
pub use generation::GenerationConfig;
pub use hf::HfConfig;
pub(crate) use hf::Section;
pub use initialize::FoundWeights;
pub use kv::{KvCacheConfig, KvCacheParams, KvConnector};
pub use model::{Llama3RopeScalingParams, Llama4Config};
pub use parameters::ParameterCount;
pub use pipeline::PipelineConfig;
pub use quant::QuantConfig;
pub use returns::{ReturnHiddenStates, ReturnLogits};
