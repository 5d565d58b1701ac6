//! Generation: how the next token is chosen, when to stop, and the loop over the model.

mod request;
mod score;
mod sequence;
mod session;

pub use request::{Event, Generation, Request, Timings};
pub use score::{Score, score};
pub use session::Session;
