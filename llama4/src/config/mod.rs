//! What a model is: Hugging Face's `config.json` as found on disk, read into one validated [`Llama4Config`].

mod hf;
mod model;
mod parameters;
mod presets;
mod quant;
mod returns;
mod validate;

pub use hf::HfConfig;
pub use model::{Llama3RopeScalingParams, Llama4Config};
pub use parameters::ParameterCount;
pub use quant::QuantConfig;
pub use returns::{ReturnHiddenStates, ReturnLogits};
