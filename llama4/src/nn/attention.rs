use burn::config::Config;
use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};

use super::{Projection, ProjectionConfig, StepContext};
use crate::Llama4Config;
use crate::cache::{LayerCache, Pieces, Span};
use crate::ops::{self, HeadSteps, NewHeads, Places};

/// Configuration of [`Attention`].
#[derive(Config, Debug)]
pub struct AttentionConfig {
    /// Width of input and output.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Scale of the scores.
    pub scale: f64,
    /// Bias on all four projections.
    #[config(default = false)]
    pub bias: bool,
    /// Whether queries and keys are rotated.
    #[config(default = true)]
    pub uses_rope: bool,
    /// Epsilon of the QK norm, where the layer has one.
    pub qk_norm: Option<f64>,
    /// Whether queries are scaled by their position.
    #[config(default = false)]
    pub temperature_tuning: bool,
}

impl AttentionConfig {
    /// The attention of one layer of a model.
    pub fn of_layer(config: &Llama4Config, layer: usize) -> Self {
        let uses_rope = config.uses_rope[layer];
        Self::new(
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            config.attention_multiplier,
        )
        .with_bias(config.attention_bias)
        .with_uses_rope(uses_rope)
        .with_qk_norm((uses_rope && config.use_qk_norm).then_some(config.rms_norm_eps))
        .with_temperature_tuning(!uses_rope && config.attn_temperature_tuning)
    }

    /// An attention with random weights.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Attention<B> {
        let projection = |input, output| ProjectionConfig::new(input, output).with_bias(self.bias).init(device);
        let (q_width, kv_width) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        Attention {
            q_proj: projection(self.hidden, q_width),
            k_proj: projection(self.hidden, kv_width),
            v_proj: projection(self.hidden, kv_width),
            o_proj: projection(q_width, self.hidden),
            head_dim: self.head_dim,
            scale: self.scale,
            uses_rope: self.uses_rope,
            qk_norm: self.qk_norm,
            temperature_tuning: self.temperature_tuning,
        }
    }
}

/// Grouped-query attention over a [`LayerCache`].
///
/// RoPE layers: rotate q and k, then RMS-normalise each head of both (QK norm), attend within the chunk. NoPE layers: neither; scale q by
/// its position's temperature, attend over everything. Cached keys are final: they never change later.
#[derive(Module, Debug)]
pub struct Attention<B: Backend> {
    pub(super) q_proj: Projection<B>,
    pub(super) k_proj: Projection<B>,
    pub(super) v_proj: Projection<B>,
    pub(super) o_proj: Projection<B>,
    head_dim: usize,
    scale: f64,
    uses_rope: bool,
    qk_norm: Option<f64>,
    temperature_tuning: bool,
}

impl<B: Backend> Attention<B> {
    /// Attend from the new tokens, whose keys and values are written to `cache`.
    ///
    /// # Shapes
    /// - x: `[tokens, hidden]`
    /// - output: same as `x`
    pub fn forward(&self, x: Tensor<B, 2>, context: &StepContext<B>, cache: &mut LayerCache<B>) -> Tensor<B, 2> {
        let queries = self.q_proj.forward(x.clone());
        let keys = self.k_proj.forward(x.clone());
        let values = self.v_proj.forward(x);
        self.o_proj.forward(self.attend([queries, keys, values], context, cache))
    }

    /// Attend with what the projections made of the new tokens.
    ///
    /// # Shapes
    /// - queries, keys and values: `[tokens, heads * head_dim]`, keys and values of the key heads
    /// - output: as the queries
    pub(super) fn attend(
        &self,
        qkv: [Tensor<B, 2>; 3],
        context: &StepContext<B>,
        cache: &mut LayerCache<B>,
    ) -> Tensor<B, 2> {
        let [queries, keys, values] = qkv.map(|x| self.heads(x));
        let steps = HeadSteps {
            rotation: self.uses_rope.then(|| context.rotary.tensors()),
            norm: self.qk_norm,
            temperature: context.temperature.clone().filter(|_| self.temperature_tuning),
        };
        let attended = match &context.places {
            Some(table) => {
                let places = Places { spans: &context.spans, table };
                ops::decode_attention(NewHeads { queries, keys, values }, &steps, cache, &places, self.scale)
            }
            None => self.attend_pieces(NewHeads { queries, keys, values }, steps, &context.spans, cache),
        };
        let [tokens, heads, head_dim] = attended.dims();
        attended.reshape([tokens, heads * head_dim])
    }

    /// Attention of any number of tokens of each sequence, cut at the borders of chunks.
    fn attend_pieces(
        &self,
        new: NewHeads<B>,
        mut steps: HeadSteps<B>,
        spans: &[Span],
        cache: &mut LayerCache<B>,
    ) -> Tensor<B, 3> {
        let values = new.values;
        let queries = ops::position_heads(new.queries, &steps);
        steps.temperature = None;
        let keys = ops::position_heads(new.keys, &steps);

        let pieces = Pieces::cut(spans, cache.chunk());
        let mut outputs = Vec::new();
        if !pieces.continuing.is_empty() {
            cache.write(&pieces.continuing, &keys, &values);
            outputs.push(ops::cached_attention(&queries, cache, &pieces.continuing, self.scale));
        }
        if !pieces.fresh.is_empty() {
            outputs.push(ops::fresh_attention(&queries, &keys, &values, &pieces.fresh, self.scale));
            // Only now: what continues a chunk has read the keys that these overwrite.
            cache.write(&pieces.kept, &keys, &values);
        }
        in_batch_order(outputs, &pieces)
    }

    /// `[tokens, heads * head_dim]` to `[tokens, heads, head_dim]`.
    fn heads(&self, x: Tensor<B, 2>) -> Tensor<B, 3> {
        let [tokens, width] = x.dims();
        x.reshape([tokens, width / self.head_dim, self.head_dim])
    }
}

/// Put the outputs of the pieces back in the order of the batch.
fn in_batch_order<B: Backend>(mut outputs: Vec<Tensor<B, 3>>, pieces: &Pieces) -> Tensor<B, 3> {
    if outputs.len() == 1 {
        return outputs.remove(0);
    }
    let joined = Tensor::cat(outputs, 0);
    let came: Vec<usize> = pieces.iter().flat_map(|piece| piece.offset..piece.offset + piece.len).collect();
    if came.is_sorted() {
        return joined;
    }
    let mut places = vec![0_i32; came.len()];
    for (place, &token) in came.iter().enumerate() {
        places[token] = place as i32;
    }
    let shape = [places.len()];
    let places = Tensor::<B, 1, Int>::from_data(TensorData::new(places, shape), &joined.device());
    ops::select_rows(joined, places)
}
