//! generate

mod candidates;
mod history;
mod logprobs;
mod nucleus;
mod params;
mod penalties;
mod random;
mod rank;
mod sampler;
mod softmax;
mod stop;
mod stop_strings;

pub use history::History;
pub use logprobs::TokenLogprob;
pub use params::SamplingParams;
pub use sampler::{Sampled, Sampler};
pub use stop::{FinishReason, StopConditions};
pub use stop_strings::{StopOutput, StopStrings};
