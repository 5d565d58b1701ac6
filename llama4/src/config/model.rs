use burn::tensor::DType;
use serde::{Deserialize, Serialize};

/// RoPE frequency scaling of type `llama3` (static, the same at any length).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Llama3RopeScalingParams {
    /// Long wavelengths are stretched by this factor.
    pub factor: f64,
    /// Wavelengths above `orig_max_position / low_freq_factor` are stretched in full.
    pub low_freq_factor: f64,
    /// Wavelengths below `orig_max_position / high_freq_factor` stay.
    pub high_freq_factor: f64,
    /// Context length the model was first trained for (`original_max_position_embeddings` in `config.json`).
    pub orig_max_position: usize,
}

/// What a Llama 4 text model is. All that concerns running it is in `PipelineConfig`.
///
/// Field names are those of Modular MAX's `Llama4Config` and of Hugging Face's `config.json`, except where those mislead.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Llama4Config {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; each serves `num_attention_heads / num_key_value_heads` query heads.
    pub num_key_value_heads: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Width of one head; `num_attention_heads * head_dim` need not equal `hidden_size`.
    pub head_dim: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Scaling of the rotary frequencies; `None` is plain RoPE.
    pub rope_scaling_params: Option<Llama3RopeScalingParams>,
    /// Width of each routed expert and of the shared expert.
    pub intermediate_size: usize,
    /// Width of the MLP in dense layers.
    pub intermediate_size_mlp: usize,
    /// Rows of the embedding, columns of the logits.
    pub vocab_size: usize,
    /// Routed experts of a mixture-of-experts layer.
    pub num_local_experts: usize,
    /// Experts that each token is sent to.
    pub num_experts_per_tok: usize,
    /// Indices of the mixture-of-experts layers; the others are dense.
    pub moe_layers: Vec<usize>,
    /// Per layer: rotary embedding (and QK norm), or neither. Hugging Face's and MAX's `no_rope_layers` has the same content
    /// under a name that says the opposite: there, 1 means "uses RoPE".
    pub uses_rope: Vec<bool>,
    /// Per layer: attention only within a chunk, or over everything. Follows `uses_rope` unless `layer_types` says otherwise.
    pub uses_chunked_attention: Vec<bool>,
    /// Positions in a chunk; `None` means full attention in every layer.
    pub attention_chunk_size: Option<usize>,
    /// Parameter-free RMS norm of each query and key head, on RoPE layers only.
    pub use_qk_norm: bool,
    /// Scale queries by their position, on NoPE layers only.
    pub attn_temperature_tuning: bool,
    /// Positions per step of the temperature.
    pub floor_scale: f64,
    /// Weight of the temperature's logarithm.
    pub attn_scale: f64,
    /// Bias on the q, k, v and o projections.
    pub attention_bias: bool,
    /// Scale of the attention scores, `1 / sqrt(head_dim)`.
    pub attention_multiplier: f64,
    /// Epsilon of every RMS norm and of the QK norm.
    pub rms_norm_eps: f64,
    /// Storage dtype of the norm weights, known once the checkpoint's headers are read.
    pub norm_dtype: Option<DType>,
    /// The head shares the embedding's weight.
    pub tie_word_embeddings: bool,
    /// Longest context the model claims.
    pub max_position_embeddings: usize,
    /// Token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// Token that fills up a row.
    pub pad_token_id: Option<u32>,
}

impl Llama4Config {
    /// Whether `layer` is a mixture of experts.
    pub fn is_moe(&self, layer: usize) -> bool {
        self.moe_layers.contains(&layer)
    }

    /// Positions that `layer` can look back over at most: its chunk, or `None` for all.
    pub fn chunk_size(&self, layer: usize) -> Option<usize> {
        self.attention_chunk_size
            .filter(|_| self.uses_chunked_attention[layer])
    }
}
