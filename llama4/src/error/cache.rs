/// What can go wrong between a forward pass and its [`KvCache`](crate::cache::KvCache).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// More tokens than the cache was allocated for.
    #[error("sequence {row} would hold {wanted} tokens, its cache has room for {capacity}")]
    Full {
        /// Row of the cache.
        row: usize,
        /// Tokens the row would hold after the pass.
        wanted: usize,
        /// Tokens the cache can hold.
        capacity: usize,
    },
    /// A row that the cache does not have.
    #[error("sequence {row} is not in the cache, which has {rows} rows")]
    NoSuchRow {
        /// The row asked for.
        row: usize,
        /// Rows of the cache.
        rows: usize,
    },
    /// The same row named twice in one batch.
    #[error("sequence {row} occurs twice in one batch")]
    RowTwice {
        /// The row.
        row: usize,
    },
    /// A sequence without a token.
    #[error("sequence {row} has no token to process")]
    NoTokens {
        /// The row.
        row: usize,
    },
    /// The batch's token tensor and its sequence lengths disagree.
    #[error("the batch's sequences hold {expected} tokens, its tensor has {found}")]
    TokenCount {
        /// Sum of the sequence lengths.
        expected: usize,
        /// Length of the token tensor.
        found: usize,
    },
    /// A position ahead of what is cached.
    #[error("sequence {row} holds {held} tokens and cannot be cut to {wanted}")]
    Ahead {
        /// Row of the cache.
        row: usize,
        /// Tokens held.
        held: usize,
        /// Length asked for.
        wanted: usize,
    },
    /// A chunked layer no longer holds the keys that this length needs.
    #[error(
        "sequence {row} cannot be cut to {wanted} tokens: keys of that chunk are overwritten; cut to {resume_at} and \
         process the tokens from there again"
    )]
    Evicted {
        /// Row of the cache.
        row: usize,
        /// Length asked for.
        wanted: usize,
        /// The longest length below it that the cache can be cut to.
        resume_at: usize,
    },
    /// A cache made for another model.
    #[error("the cache has {found} layers, the model {expected}")]
    Layers {
        /// Layers of the model.
        expected: usize,
        /// Layers of the cache.
        found: usize,
    },
    /// Hidden states asked of a layer that the model does not have.
    #[error("hidden states of layer {layer} were asked for, the model has layers 0 to {layers} - 1")]
    NoSuchLayer {
        /// The layer asked for.
        layer: usize,
        /// Layers of the model.
        layers: usize,
    },
}
