//! Generation: how the next token is chosen, when to stop, and the loop over the model.

mod candidates;
mod greedy;
mod history;
mod logprobs;
mod nucleus;
mod params;
mod penalties;
mod random;
mod rank;
mod request;
mod sampler;
mod score;
mod sequence;
mod session;
mod softmax;
mod stop;
mod stop_strings;

pub use greedy::GreedySteps;
pub use history::History;
pub use logprobs::TokenLogprob;
pub use params::SamplingParams;
pub use request::{Event, Generation, Request, Timings};
pub use sampler::{Sampled, Sampler};
pub use score::{Score, score};
pub use session::{Session, prefill_piece};
pub use stop::{FinishReason, StopConditions};
pub use stop_strings::{StopOutput, StopStrings};
