//! One error enum per concern; fields carry the operands, the message is a sentence to act on.

mod cache;
mod config;
mod generate;
mod import;
mod lora;
mod text;

pub use cache::CacheError;
pub use config::ConfigError;
pub use generate::GenerateError;
pub use import::ImportError;
pub use lora::LoraError;
pub use text::TextError;
