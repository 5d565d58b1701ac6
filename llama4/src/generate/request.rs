use std::time::Duration;

use serde::Serialize;

use super::{FinishReason, Sampled, SamplingParams, StopConditions};

/// One prompt and how it is to be continued.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Ids of the prompt, begin-of-text included where the model wants it.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// When to stop.
    pub stop: StopConditions,
}

/// What a session reports while it works. `request` is the index of the request.
#[derive(Debug)]
pub enum Event<'a> {
    /// A piece of a prompt was processed; `done` of `total` tokens are in the cache now.
    Prefill {
        /// Index of the request.
        request: usize,
        /// Prompt tokens processed or found in the cache.
        done: usize,
        /// Prompt tokens.
        total: usize,
    },
    /// A token was chosen. `text` is what can be shown now: it may be empty, or come from earlier tokens, since characters and
    /// possible stop strings are held back until they are whole.
    Token {
        /// Index of the request.
        request: usize,
        /// The token.
        token: &'a Sampled,
        /// Text to append.
        text: &'a str,
    },
    /// A request has ended. `text` is what was still held back.
    Finished {
        /// Index of the request.
        request: usize,
        /// Text to append.
        text: &'a str,
        /// All of it, as the session returns it at the end: with several requests, one that is done need not wait for the others.
        generation: &'a Generation,
    },
}

/// A finished continuation.
#[derive(Debug, Clone)]
pub struct Generation {
    /// Generated tokens, an end token included.
    pub tokens: Vec<Sampled>,
    /// Their text, without end token and stop string; `None` in a session without a tokenizer.
    pub text: Option<String>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Time and tokens of both phases.
    pub timings: Timings,
}

impl Generation {
    /// The generated ids.
    pub fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.id).collect()
    }
}

/// Time and tokens of one request. In a batch, time that several requests share counts for each of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Timings {
    /// Prompt tokens that were computed.
    pub prefill_tokens: usize,
    /// Prompt tokens found in the cache.
    pub cached_tokens: usize,
    /// From the request's start to its first token.
    #[serde(rename = "prefill_seconds", serialize_with = "seconds")]
    pub prefill: Duration,
    /// Tokens decoded after the first.
    pub decode_tokens: usize,
    /// Time for those.
    #[serde(rename = "decode_seconds", serialize_with = "seconds")]
    pub decode: Duration,
}

impl Timings {
    /// Prompt tokens per second; `None` if none was computed.
    pub fn prefill_rate(&self) -> Option<f64> {
        rate(self.prefill_tokens, self.prefill)
    }

    /// Decoded tokens per second; `None` if none was decoded.
    pub fn decode_rate(&self) -> Option<f64> {
        rate(self.decode_tokens, self.decode)
    }
}

fn rate(tokens: usize, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}
