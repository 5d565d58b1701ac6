use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::Llama4ForCausalLM;
use crate::cache::KvCache;
use crate::error::CacheError;
use crate::nn::{ForwardOptions, SequenceTokens, TokenBatch};
use crate::ops;

/// Decode steps of sequences that always take their most likely token.
///
/// It is chosen on the device, which can so go on with it before the host has read it: a step is queued behind the last one, and what the host does
/// with a token meanwhile costs no time. Where the token turns out to be the last, the step was for nothing, and the cache is cut back.
///
/// All steps are of one model and one cache.
#[derive(Debug, Default)]
pub struct GreedySteps<B: Backend> {
    queued: Option<Queued<B>>,
    /// Whether the model can be asked for a step whose token is still on the device, once that is known.
    queues: Option<bool>,
}

/// A step of one sequence that is under way; its token counts as held by the cache.
#[derive(Debug)]
struct Queued<B: Backend> {
    row: usize,
    /// The token that it is a step with, and how many the cache held before it.
    token: u32,
    held: usize,
    /// `[1, vocab]`
    logits: Tensor<B, 2>,
}

impl<B: Backend> GreedySteps<B> {
    /// No step is under way.
    pub fn new() -> Self {
        Self { queued: None, queues: None }
    }

    /// One step: the next token of each sequence, given its row of the cache and its last token, which the cache does not hold yet.
    ///
    /// `again` says that the caller means to go on with the tokens that are returned, and that the cache has room for them: the next step may
    /// begin. Where it goes on otherwise, that step is cancelled.
    ///
    /// # Errors
    /// As [`Llama4ForCausalLM::forward`].
    pub fn step(
        &mut self,
        model: &Llama4ForCausalLM<B>,
        cache: &mut KvCache<B>,
        last: &[(usize, u32)],
        again: bool,
    ) -> Result<Vec<u32>, CacheError> {
        let logits = match self.queued.take_if(|queued| last == [(queued.row, queued.token)]) {
            Some(queued) => queued.logits,
            None => {
                self.cancel(cache)?;
                let last: Vec<(usize, [u32; 1])> = last.iter().map(|&(row, id)| (row, [id])).collect();
                logits_of(model, cache, &TokenBatch::new(&last, &model.device()))?
            }
        };
        let best = ops::argmax(logits);
        let &[(row, _)] = last else { return Ok(best.into_data().iter::<u32>().collect()) };
        if !again || !*self.queues.get_or_insert_with(|| model.model().queues_tokens()) {
            return Ok(best.into_data().iter::<u32>().collect());
        }
        let held = cache.len(row);
        let (ids, next) = ops::read_ids_during(&best, || {
            let sequences = vec![SequenceTokens { row, len: 1 }];
            logits_of(model, cache, &TokenBatch { tokens: best.clone().reshape([1]), sequences })
        });
        self.queued = Some(Queued { row, token: ids[0], held, logits: next? });
        Ok(ids)
    }

    /// Forget the step that is under way, if there is one: the cache holds what it held before.
    ///
    /// # Errors
    /// If the cache is not the one that the step was for.
    pub fn cancel(&mut self, cache: &mut KvCache<B>) -> Result<(), CacheError> {
        match self.queued.take() {
            Some(queued) => cache.truncate(queued.row, queued.held),
            None => Ok(()),
        }
    }
}

fn logits_of<B: Backend>(
    model: &Llama4ForCausalLM<B>,
    cache: &mut KvCache<B>,
    batch: &TokenBatch<B>,
) -> Result<Tensor<B, 2>, CacheError> {
    Ok(model.forward(batch, cache, &ForwardOptions::default())?.last_logits)
}
