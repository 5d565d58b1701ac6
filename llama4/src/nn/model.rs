use burn::module::{Ignored, Module};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};

use super::output::Trace;
use super::residual::residual_dtype;
use super::{
    DecoderLayer, RmsNorm, RmsNormConfig, StepContext, TokenBatch, TokenEmbedding, TokenEmbeddingConfig, Training,
    inverse_frequencies,
};
use crate::Llama4Config;
use crate::cache::KvCache;
use crate::error::CacheError;
use crate::ops;
use crate::quant::PackedTensor;

/// The decoder without its head: embedding, layers, final norm.
#[derive(Module, Debug)]
pub struct Llama4Model<B: Backend> {
    pub(super) embed_tokens: TokenEmbedding<B>,
    pub(super) layers: Vec<DecoderLayer<B>>,
    norm: RmsNorm<B>,
    frequencies: Ignored<Vec<f64>>,
}

/// What the layers leave behind.
pub struct DecoderOutput<B: Backend> {
    /// Residual stream after the last layer, before the final norm, `[tokens, hidden]`.
    pub hidden: Tensor<B, 2>,
    /// Residual stream after each layer that was asked for, in increasing order.
    pub selected: Vec<Tensor<B, 2>>,
    /// Every layer's intermediate values, if asked for.
    pub trace: Option<Trace<B>>,
}

impl<B: Backend> Llama4Model<B> {
    /// A model with random weights.
    pub fn new(config: &Llama4Config, device: &B::Device) -> Self {
        Self {
            embed_tokens: TokenEmbeddingConfig::new(config.vocab_size, config.hidden_size).init(device),
            layers: (0..config.num_hidden_layers).map(|index| DecoderLayer::new(config, index, device)).collect(),
            norm: RmsNormConfig::new(config.hidden_size).with_epsilon(config.rms_norm_eps).init(device),
            frequencies: Ignored(inverse_frequencies(config)),
        }
    }

    /// Run the layers over new tokens and remember their keys and values in `cache`.
    ///
    /// `selected` names layers whose output is wanted; `trace` asks for every layer's intermediate values.
    ///
    /// # Errors
    /// If the batch does not fit the cache. Nothing has changed then.
    pub fn forward(
        &self,
        config: &Llama4Config,
        batch: &TokenBatch<B>,
        cache: &mut KvCache<B>,
        selected: &[usize],
        trace: bool,
    ) -> Result<DecoderOutput<B>, CacheError> {
        if cache.num_layers() != self.layers.len() {
            return Err(CacheError::Layers { expected: self.layers.len(), found: cache.num_layers() });
        }
        if let Some(&layer) = selected.iter().find(|&&layer| layer >= self.layers.len()) {
            return Err(CacheError::NoSuchLayer { layer, layers: self.layers.len() });
        }
        let found = batch.tokens.dims()[0];
        if found != batch.len() {
            return Err(CacheError::TokenCount { expected: batch.len(), found });
        }
        let spans = cache.spans(&batch.sequences)?;
        let context = StepContext::new(config, &self.frequencies.0, spans, &batch.tokens.device());

        let residual = residual_dtype(self.dtype());
        let mut hidden = self.embed_tokens.forward(batch.tokens.clone()).cast(residual);
        let mut kept = Vec::new();
        let mut traced = trace.then(Trace::default);
        for (index, layer) in self.layers.iter().enumerate() {
            hidden = match &mut traced {
                None => layer.step(hidden, &context, cache.layer(index)),
                Some(trace) => {
                    let output = layer.forward(hidden, &context, cache.layer(index));
                    trace.attention.push(output.attention);
                    trace.layers.push(output.hidden.clone());
                    trace.routing.push(output.routing);
                    output.hidden
                }
            };
            if selected.contains(&index) {
                kept.push(hidden.clone());
            }
            if begins(index + 1, self.layers.len()) {
                ops::submit::<B>(&hidden.device());
            }
        }
        cache.advance(&context.spans);
        Ok(DecoderOutput { hidden, selected: kept, trace: traced })
    }

    /// Set how the layers are trained.
    pub fn for_training(mut self, training: Training) -> Self {
        self.layers = self.layers.into_iter().map(|layer| layer.for_training(training)).collect();
        self
    }

    /// The final norm. `[tokens, hidden]` to the same.
    pub fn normalize(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        self.norm.forward(hidden)
    }

    /// Whether a step of so many sequences should go through all layers without a word from the device, so that a caller gains by queueing another
    /// one behind it. Of several it is presumed: where there is no kernel for their experts, a queued step waits for the device.
    pub fn queues_steps(&self, sequences: usize) -> bool {
        let queues = |layer: &DecoderLayer<B>| if sequences == 1 { layer.fuses() } else { layer.chooses_one() };
        ops::queues::<B>() && self.layers.iter().all(queues)
    }

    /// The final norm and then a product with the head, of one token, where the backend has an operation for both.
    pub(super) fn normed_linear(&self, hidden: &Tensor<B, 2>, head: &PackedTensor<B>) -> Option<Tensor<B, 2>> {
        (hidden.dims()[0] == 1 && ops::fuses_tokens(head, self.dtype()))
            .then(|| ops::normed_linears(hidden, &self.norm.of_input(), &[head]).remove(0))
    }

    /// Dtype of the activations: that of the norms, which are never packed.
    pub fn dtype(&self) -> DType {
        self.norm.weight().dtype()
    }

    /// The device that holds the model.
    pub fn device(&self) -> B::Device {
        self.norm.weight().device()
    }

    /// The token embedding.
    pub fn embedding(&self) -> &TokenEmbedding<B> {
        &self.embed_tokens
    }
}

/// Whether a device had better begin with what is queued once `done` layers of `all` are. Every beginning costs it time.
fn begins(done: usize, all: usize) -> bool {
    if ops::is_ahead() {
        // It has something to do, and should find more when it is done with that.
        return done == all.div_ceil(2) && done < all;
    }
    // The first layers soon; then twice as many each time.
    done.is_power_of_two() && done < all
}
