use burn::module::{Ignored, Module};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, FloatDType, Int, Tensor, TensorData};

use super::{
    ForwardOptions, ForwardOutput, Llama4Model, LoraConfig, Projection, ProjectionConfig, TokenBatch, Training,
};
use crate::Llama4Config;
use crate::cache::KvCache;
use crate::config::{ReturnHiddenStates, ReturnLogits};
use crate::error::CacheError;
use crate::ops;

/// Llama 4 with its language-model head.
#[derive(Module, Debug)]
pub struct Llama4ForCausalLM<B: Backend> {
    pub(super) model: Llama4Model<B>,
    /// `None` where the head shares the embedding's weight.
    pub(super) lm_head: Option<Projection<B>>,
    config: Ignored<Llama4Config>,
    /// How the projections are adapted, where they are.
    pub(super) lora: Ignored<Option<LoraConfig>>,
}

impl Llama4Config {
    /// A model of this shape with random weights.
    ///
    /// Weights are drawn on first use, so a model that is filled from a checkpoint never draws them.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Llama4ForCausalLM<B> {
        Llama4ForCausalLM {
            model: Llama4Model::new(self, device),
            lm_head: (!self.tie_word_embeddings)
                .then(|| ProjectionConfig::new(self.hidden_size, self.vocab_size).init(device)),
            config: Ignored(self.clone()),
            lora: Ignored(None),
        }
    }
}

impl<B: Backend> Llama4ForCausalLM<B> {
    /// What the model is.
    pub fn config(&self) -> &Llama4Config {
        &self.config.0
    }

    /// Dtype of the activations.
    pub fn dtype(&self) -> DType {
        self.model.dtype()
    }

    /// The device that holds the model.
    pub fn device(&self) -> B::Device {
        self.model.device()
    }

    /// The decoder without its head.
    pub fn model(&self) -> &Llama4Model<B> {
        &self.model
    }

    /// Set how the model is trained; [`Training::default`] is how it was made.
    pub fn for_training(mut self, training: Training) -> Self {
        self.model = self.model.for_training(training);
        self
    }

    /// An empty cache for `rows` sequences of up to `capacity` tokens.
    pub fn new_cache(&self, rows: usize, capacity: usize) -> KvCache<B> {
        KvCache::new(self.config(), rows, capacity, self.dtype(), &self.device())
    }

    /// Process the new tokens of a batch of sequences: a prefill, a piece of one, decode steps, or a mixture.
    ///
    /// Each sequence goes on where its row of `cache` ends. A sequence gives what it gives alone, whatever else is in the batch. Only rows
    /// asked for go through the head.
    ///
    /// # Errors
    /// If the batch does not fit the cache. Nothing has changed then.
    pub fn forward(
        &self,
        batch: &TokenBatch<B>,
        cache: &mut KvCache<B>,
        options: &ForwardOptions,
    ) -> Result<ForwardOutput<B>, CacheError> {
        let selected: &[usize] = match &options.hidden_states {
            ReturnHiddenStates::SelectedLayers(layers) => layers,
            _ => &[],
        };
        let decoded = self.model.forward(self.config(), batch, cache, selected, options.trace)?;
        let rows = Rows::new(batch);
        let hidden = decoded.hidden;
        let hidden_states = match options.hidden_states {
            ReturnHiddenStates::None => Vec::new(),
            ReturnHiddenStates::Last | ReturnHiddenStates::LastPerDevice => {
                vec![rows.pick(&hidden, &rows.last(1).0)]
            }
            ReturnHiddenStates::All => vec![hidden.clone()],
            ReturnHiddenStates::AllNormalized => vec![self.model.normalize(hidden.clone())],
            ReturnHiddenStates::SelectedLayers(_) => decoded.selected,
        };

        let wanted = match options.logits {
            ReturnLogits::LastToken => 1,
            ReturnLogits::Variable(n) => n.max(1),
            ReturnLogits::All => usize::MAX,
        };
        let (indices, offsets) = rows.last(wanted);
        let logits = self.head(rows.pick(&hidden, &indices));
        let (last_logits, logits, offsets) = if options.logits == ReturnLogits::LastToken {
            (logits, None, None)
        } else {
            let last: Vec<usize> = offsets[1..].iter().map(|end| end - 1).collect();
            (rows.pick(&logits, &last), Some(logits), Some(offsets))
        };
        Ok(ForwardOutput { last_logits, logits, offsets, hidden_states, trace: decoded.trace })
    }

    /// Final norm and head: `[rows, hidden]` to `f32` logits, `[rows, vocab]`.
    fn head(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        let packed = match &self.lm_head {
            Some(head) => head.packed_alone(),
            None => self.model.embedding().weight().packed(),
        };
        let logits = packed.and_then(|head| self.model.normed_linear(&hidden, head)).unwrap_or_else(|| {
            let normed = self.model.normalize(hidden);
            match &self.lm_head {
                Some(head) => head.forward(normed),
                None => self.model.embedding().logits(normed),
            }
        });
        logits.cast(FloatDType::F32)
    }
}

/// Where the sequences of a batch stand in its ragged rows.
struct Rows {
    /// First row of each sequence, and the end.
    offsets: Vec<usize>,
}

impl Rows {
    fn new<B: Backend>(batch: &TokenBatch<B>) -> Self {
        let mut offsets = vec![0];
        for sequence in &batch.sequences {
            offsets.push(offsets[offsets.len() - 1] + sequence.len);
        }
        Self { offsets }
    }

    /// The last `n` rows of each sequence, and the offsets of the sequences among them.
    fn last(&self, n: usize) -> (Vec<usize>, Vec<usize>) {
        let (mut indices, mut offsets) = (Vec::new(), vec![0]);
        for bounds in self.offsets.windows(2) {
            let first = bounds[0].max(bounds[1].saturating_sub(n));
            indices.extend(first..bounds[1]);
            offsets.push(indices.len());
        }
        (indices, offsets)
    }

    /// Rows `indices` of `x`; a copy only where they are not all or one run.
    fn pick<B: Backend>(&self, x: &Tensor<B, 2>, indices: &[usize]) -> Tensor<B, 2> {
        if indices.len() == x.dims()[0] {
            return x.clone();
        }
        if indices.windows(2).all(|pair| pair[0] + 1 == pair[1]) {
            return x.clone().narrow(0, indices[0], indices.len());
        }
        let ids: Vec<i32> = indices.iter().map(|&index| index as i32).collect();
        let shape = [ids.len()];
        let ids = Tensor::<B, 1, Int>::from_data(TensorData::new(ids, shape), &x.device());
        ops::select_rows(x.clone(), ids)
    }
}
