//! The model: modules in burn's `Config → init → forward` form, generic over [`Backend`](burn::tensor::backend::Backend) alone.
//!
//! Hidden states are ragged: `[tokens, hidden]`, the new tokens of every sequence of the batch one after the other, no
//! padding. Which sequence a token belongs to, and at which position it stands, is in the pass's [`StepContext`].

mod attention;
mod batch;
mod causal_lm;
mod context;
mod decoder_layer;
mod embedding;
mod lora;
mod mlp;
mod model;
pub mod moe;
mod norm;
mod output;
mod projection;
mod residual;
mod rope;
mod token;
mod weights;

pub use attention::{Attention, AttentionConfig};
pub use batch::{SequenceTokens, TokenBatch};
pub use causal_lm::Llama4ForCausalLM;
pub use context::StepContext;
pub use decoder_layer::{DecoderLayer, FeedForward, Training};
pub use embedding::{TokenEmbedding, TokenEmbeddingConfig};
pub use lora::{LoraAdapter, LoraConfig, LoraTarget};
pub use mlp::{Mlp, MlpConfig};
pub use model::Llama4Model;
pub use norm::{RmsNorm, RmsNormConfig, rms_normalize};
pub use output::{ForwardOptions, ForwardOutput, Trace};
pub use projection::{Projection, ProjectionConfig};
pub use rope::{RotaryTable, inverse_frequencies, rotate};

// What `import` fills and reads field by field.
pub(crate) use causal_lm::Llama4ForCausalLMRecord;
pub(crate) use decoder_layer::FeedForwardRecord;
pub(crate) use mlp::MlpRecord;
pub(crate) use projection::ProjectionRecord;
pub(crate) use weights::WeightSlot;
