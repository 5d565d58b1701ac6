use super::{CacheError, TextError};

/// What can go wrong while the next token is chosen, or in the settings that say how.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A sampling parameter outside its range.
    #[error("{field} is {value}: it must be {rule}")]
    Parameter {
        /// Name of the field, as in [`SamplingParams`](crate::generate::SamplingParams).
        field: String,
        /// The value given.
        value: String,
        /// What the value must be.
        rule: &'static str,
    },
    /// A stop string without a character would stop everything at once.
    #[error("stop string {index} is empty: a stop string needs at least one character")]
    EmptyStopString {
        /// Index in the list of stop strings.
        index: usize,
    },
    /// A token id in the settings or the history for which the model has no logit.
    #[error("{place} names token {id}, the model has logits for {vocab} tokens (0 to {vocab} - 1)")]
    NoLogit {
        /// Where the id comes from.
        place: &'static str,
        /// The id.
        id: u32,
        /// Number of logits.
        vocab: usize,
    },
    /// A logit that no softmax can use.
    #[error(
        "the logit of token {id} is {value}, so no token can be chosen: either the model's output is broken (check the \
         weights and the dtype) or the logit bias is too large"
    )]
    BrokenLogit {
        /// The first token whose logit is NaN or `+inf`.
        id: u32,
        /// Its logit, bias and penalties included.
        value: f32,
    },
    /// Every token is banned, or there is none.
    #[error("none of the {vocab} tokens can be chosen: every logit is -inf (is everything banned by the logit bias?)")]
    NothingToChoose {
        /// Number of logits.
        vocab: usize,
    },
    /// No seed was given and the operating system gave none.
    #[error("the operating system gave no random seed ({reason}): set one")]
    Entropy {
        /// What the operating system said.
        reason: String,
    },
    /// A prompt without a token: a model continues something.
    #[error("prompt {request} is empty: give at least one token, the begin-of-text token for instance")]
    EmptyPrompt {
        /// Index of the request.
        request: usize,
    },
    /// A prompt that does not fit the session's context.
    #[error(
        "prompt {request} has {length} tokens, the context only {context}: make the context larger or the prompt shorter"
    )]
    PromptTooLong {
        /// Index of the request.
        request: usize,
        /// Tokens of the prompt.
        length: usize,
        /// Tokens that the session has room for.
        context: usize,
    },
    /// Stop strings are looked for in text, and there is none.
    #[error("stop strings need a tokenizer: this session has none, so it makes no text to find them in")]
    StopStringsNeedText,
    /// The forward pass refused its batch.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A generated token could not be decoded.
    #[error(transparent)]
    Text(#[from] TextError),
}
