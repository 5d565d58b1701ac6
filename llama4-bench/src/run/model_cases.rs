//! Cases that run the model as generating text does.

use anyhow::Result;
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};
use llama4::Llama4ForCausalLM;
use llama4::cache::KvCache;
use llama4::error::CacheError;
use llama4::generate::{GreedySteps, prefill_piece};
use llama4::nn::{ForwardOptions, TokenBatch};
use llama4::ops;

use crate::harness::{Budget, Sample};
use crate::interrupt;

/// A prompt of `tokens`, piece by piece.
pub(super) fn prefill<B: Backend>(
    model: &Llama4ForCausalLM<B>,
    tokens: usize,
    budget: Budget,
    after: impl FnMut() -> Result<()>,
) -> Result<Sample> {
    // Any ids will do; neighbours differ, so that tokens go to different experts.
    let prompt: Vec<u32> = (0..tokens).map(|at| spread(at, model)).collect();
    let mut cache = model.new_cache(1, tokens);
    let reset = |cache: &mut KvCache<B>| {
        cache.reset();
        Ok(())
    };
    let work = |cache: &mut KvCache<B>| {
        // The next piece is under way when one has ended, as in a session.
        let mut under_way: Option<Tensor<B, 2, Int>> = None;
        for piece in prompt.chunks(prefill_piece::<B>()) {
            interrupt::check()?;
            under_way = Some(match under_way {
                Some(last) => ops::read_ids_during(&last, || step(model, cache, piece)).1?,
                None => step(model, cache, piece)?,
            });
        }
        under_way.map(Tensor::into_data);
        Ok(())
    };
    budget.measure(&mut cache, reset, work, after)
}

/// `tokens` steps of sequences that hold `depth` tokens each.
pub(super) fn decode<B: Backend>(
    model: &Llama4ForCausalLM<B>,
    [sequences, depth, tokens]: [usize; 3],
    budget: Budget,
    after: impl FnMut() -> Result<()>,
) -> Result<Sample> {
    let mut cache = model.new_cache(sequences, depth + tokens);
    let first: Vec<(usize, u32)> = (0..sequences).map(|row| (row, spread(row, model))).collect();
    let work = |cache: &mut KvCache<B>| {
        let (mut steps, mut last) = (GreedySteps::new(), first.clone());
        for token in 0..tokens {
            interrupt::check()?;
            let next = steps.step(model, cache, &last, token + 1 < tokens)?;
            last.iter_mut().zip(next).for_each(|((_, last), next)| *last = next);
        }
        Ok(())
    };
    budget.measure(&mut cache, |cache| go_back(cache, depth), work, after)
}

/// Have all sequences hold `depth` tokens.
fn go_back<B: Backend>(cache: &mut KvCache<B>, depth: usize) -> Result<()> {
    if depth == 0 {
        cache.reset();
    } else if cache.is_empty() {
        cache.fill_for_benchmark(depth)?;
    } else {
        for row in 0..cache.rows() {
            match cache.truncate(row, depth) {
                // The last repeat went over the border of a chunk, whose first keys are gone.
                Err(CacheError::Evicted { .. }) => return Ok(cache.fill_for_benchmark(depth)?),
                result => result?,
            }
        }
    }
    Ok(())
}

fn spread<B: Backend>(at: usize, model: &Llama4ForCausalLM<B>) -> u32 {
    (at as u32).wrapping_mul(2_654_435_761) % model.config().vocab_size as u32
}

/// New tokens of a sequence: the most likely next one.
fn step<B: Backend>(model: &Llama4ForCausalLM<B>, cache: &mut KvCache<B>, tokens: &[u32]) -> Result<Tensor<B, 2, Int>> {
    let batch = TokenBatch::single(tokens, &model.device());
    let output = model.forward(&batch, cache, &ForwardOptions::default())?;
    Ok(ops::argmax(output.last_logits))
}
