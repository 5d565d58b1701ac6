//! What a model is: Hugging Face's `config.json` as found on disk, read into one validated [`Llama4Config`].

mod model;
mod returns;

pub use model::{Llama3RopeScalingParams, Llama4Config};
pub use returns::{ReturnHiddenStates, ReturnLogits};
