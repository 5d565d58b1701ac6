use std::fmt;

use serde::{Deserialize, Serialize};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub(crate) enum Case {
    /// A checkpoint from disk to a model that can run.
    Load,
    /// A prompt, piece by piece; the most likely next token is read back.
    Prefill { tokens: usize },
    /// Steps of sequences that hold `depth` tokens already; the tokens of each step are chosen on the device and read back, as generating
    /// text does.
    Decode { sequences: usize, depth: usize, tokens: usize },
    /// One operation with the model's shapes, for as many rows as a pass of `tokens` tokens has.
    Operation { operation: Operation, tokens: usize },
}

/// The operations of `llama4::ops` and `llama4::nn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Operation {
    Linear,
    GroupedLinear,
    PackedLinear,
    PackedGroupedLinear,
    PackedSelect,
    UnpackRows,
    CachedAttention,
    FreshAttention,
    RmsNormalize,
    Rotate,
}

impl Operation {
    pub(crate) const ALL: [Self; 10] = [
        Self::Linear,
        Self::GroupedLinear,
        Self::PackedLinear,
        Self::PackedGroupedLinear,
        Self::PackedSelect,
        Self::UnpackRows,
        Self::CachedAttention,
        Self::FreshAttention,
        Self::RmsNormalize,
        Self::Rotate,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::GroupedLinear => "grouped_linear",
            Self::PackedLinear => "packed_linear",
            Self::PackedGroupedLinear => "packed_grouped_linear",
            Self::PackedSelect => "packed_select",
            Self::UnpackRows => "unpack_rows",
            Self::CachedAttention => "cached_attention",
            Self::FreshAttention => "fresh_attention",
            Self::RmsNormalize => "rms_normalize",
            Self::Rotate => "rotate",
        }
    }
}

impl Case {
    /// Positions that the longest sequence reaches.
    pub(crate) fn positions(&self) -> usize {
        match *self {
            Self::Prefill { tokens } => tokens,
            Self::Decode { depth, tokens, .. } => depth + tokens,
            Self::Load | Self::Operation { .. } => 0,
        }
    }

    /// What its rate counts.
    pub(crate) fn unit(&self) -> &'static str {
        match self {
            Self::Load => "GB/s",
            Self::Prefill { .. } | Self::Decode { .. } => "tokens/s",
            Self::Operation { .. } => "calls/s",
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Load => f.write_str("load"),
            Self::Prefill { tokens } => write!(f, "prefill {tokens}"),
            Self::Decode { sequences: 1, depth, .. } => write!(f, "decode at {depth}"),
            Self::Decode { sequences, depth, .. } => write!(f, "decode {sequences} sequences at {depth}"),
            Self::Operation { operation, tokens: 1 } => write!(f, "{}, 1 token", operation.name()),
            Self::Operation { operation, tokens } => write!(f, "{}, {tokens} tokens", operation.name()),
        }
    }
}
