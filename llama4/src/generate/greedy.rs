use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};

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
/// All steps are of one model and one cache. While a step is under way the cache is changed by nobody else: [`cancel`](Self::cancel) it first.
#[derive(Debug, Default)]
pub struct GreedySteps<B: Backend> {
    queued: Option<Queued<B>>,
    /// Whether the model can be asked for a step whose tokens are still on the device, once that is known: of one sequence, of several.
    queues: [Option<bool>; 2],
}

/// A step that is under way; its tokens count as held by the cache.
#[derive(Debug)]
struct Queued<B: Backend> {
    ahead: Vec<Ahead>,
    /// `[sequences, vocab]`
    logits: Tensor<B, 2>,
}

/// A sequence of it.
#[derive(Debug, Clone, Copy)]
struct Ahead {
    row: usize,
    /// The token that it is a step with, and how many the cache held before it.
    token: u32,
    held: usize,
}

impl<B: Backend> GreedySteps<B> {
    /// No step is under way.
    pub fn new() -> Self {
        Self { queued: None, queues: [None; 2] }
    }

    /// One step: the next token of each sequence, given its row of the cache and its last token, which the cache does not hold yet.
    ///
    /// `again` says that the caller means to go on with the tokens that are returned, and that the cache has room for them: the next step may
    /// begin. Where it goes on otherwise, that step is cancelled; where some sequences do not go on, for those.
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
        if last.is_empty() {
            self.cancel(cache)?;
            return Ok(Vec::new());
        }
        let places = self.queued.as_ref().and_then(|queued| queued.places(last));
        let logits = match self.queued.take_if(|_| places.is_some()).zip(places) {
            Some((queued, places)) => queued.take(&places, cache)?,
            None => {
                self.cancel(cache)?;
                let last: Vec<(usize, [u32; 1])> = last.iter().map(|&(row, id)| (row, [id])).collect();
                logits_of(model, cache, &TokenBatch::new(&last, &model.device()))?
            }
        };
        let best = ops::argmax(logits);
        if !again || !self.queues(model, last.len()) {
            return Ok(best.into_data().iter::<u32>().collect());
        }
        let rows: Vec<(usize, usize)> = last.iter().map(|&(row, _)| (row, cache.len(row))).collect();
        let (ids, next) = ops::read_ids_during(&best, || {
            let sequences = rows.iter().map(|&(row, _)| SequenceTokens { row, len: 1 }).collect();
            logits_of(model, cache, &TokenBatch { tokens: best.clone().reshape([rows.len()]), sequences })
        });
        let ahead = rows.iter().zip(&ids).map(|(&(row, held), &token)| Ahead { row, token, held }).collect();
        self.queued = Some(Queued { ahead, logits: next? });
        Ok(ids)
    }

    /// Forget the step that is under way, if there is one: the cache holds what it held before.
    ///
    /// # Errors
    /// If the cache is not the one that the step was for.
    pub fn cancel(&mut self, cache: &mut KvCache<B>) -> Result<(), CacheError> {
        let queued = self.queued.take();
        queued.iter().flat_map(|queued| &queued.ahead).try_for_each(|ahead| cache.truncate(ahead.row, ahead.held))
    }

    fn queues(&mut self, model: &Llama4ForCausalLM<B>, sequences: usize) -> bool {
        *self.queues[usize::from(sequences > 1)].get_or_insert_with(|| model.model().queues_steps(sequences))
    }
}

impl<B: Backend> Queued<B> {
    /// Where in the step these sequences are, if all of them are, in the same order and with the same tokens.
    fn places(&self, last: &[(usize, u32)]) -> Option<Vec<usize>> {
        let mut rest = self.ahead.iter().enumerate();
        last.iter().map(|&(row, token)| Some(rest.find(|(_, it)| (it.row, it.token) == (row, token))?.0)).collect()
    }

    /// The logits at these places. The others' sequences have ended: the cache holds of them what it held before.
    fn take(self, places: &[usize], cache: &mut KvCache<B>) -> Result<Tensor<B, 2>, CacheError> {
        if places.len() == self.ahead.len() {
            return Ok(self.logits);
        }
        let ended = self.ahead.iter().enumerate().filter(|(place, _)| !places.contains(place));
        ended.map(|(_, ahead)| ahead).try_for_each(|ahead| cache.truncate(ahead.row, ahead.held))?;
        let ids: Vec<i32> = places.iter().map(|&place| place as i32).collect();
        let ids = Tensor::<B, 1, Int>::from_data(TensorData::new(ids, [places.len()]), &self.logits.device());
        Ok(ops::select_rows(self.logits, ids))
    }
}

fn logits_of<B: Backend>(
    model: &Llama4ForCausalLM<B>,
    cache: &mut KvCache<B>,
    batch: &TokenBatch<B>,
) -> Result<Tensor<B, 2>, CacheError> {
    Ok(model.forward(batch, cache, &ForwardOptions::default())?.last_logits)
}
