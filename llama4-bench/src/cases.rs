use std::fmt;

use anyhow::{Result, ensure};
use burn::tensor::backend::Backend;
use llama4::Llama4ForCausalLM;
use llama4::cache::KvCache;
use llama4::nn::{ForwardOptions, TokenBatch};

use crate::harness::{Sample, Timer};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    /// One pass over a prompt; the logits of its last token are read back.
    Prefill { tokens: usize },
    /// Single steps after `depth` tokens; each step's token is chosen on the device and read back, as generating text does.
    Decode { depth: usize, tokens: usize },
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefill { tokens } => write!(f, "prefill {tokens}"),
            Self::Decode { depth, tokens } => write!(f, "decode {tokens} at {depth}"),
        }
    }
}

impl Case {
    pub(crate) fn all(prefill: &[usize], depths: &[usize], decode_tokens: usize) -> Vec<Self> {
        let prefill = prefill.iter().map(|&tokens| Self::Prefill { tokens });
        prefill.chain(depths.iter().map(|&depth| Self::Decode { depth, tokens: decode_tokens })).collect()
    }

    /// Tokens that a measured repeat processes.
    pub(crate) fn tokens(&self) -> usize {
        match self {
            Self::Prefill { tokens } | Self::Decode { tokens, .. } => *tokens,
        }
    }
}

/// Seconds of each repeat.
pub(crate) fn measure<B: Backend>(model: &Llama4ForCausalLM<B>, case: &Case, repeats: usize) -> Result<Sample> {
    let vocab = model.config().vocab_size as u32;
    // Any ids will do; neighbours differ, so that tokens go to different experts.
    let prompt =
        |length: usize| (0..length as u32).map(|at| at.wrapping_mul(2_654_435_761) % vocab).collect::<Vec<_>>();
    match *case {
        Case::Prefill { tokens } => {
            ensure!(tokens > 0, "a prompt has at least one token");
            let prompt = prompt(tokens);
            let mut cache = model.new_cache(1, tokens);
            Timer::new(repeats).run(
                &mut cache,
                |cache| {
                    cache.reset();
                    Ok(())
                },
                |cache| step(model, cache, &prompt).map(drop),
            )
        }
        Case::Decode { depth, tokens } => {
            // A decode step needs something before it.
            let prompt = prompt(depth.max(1));
            let mut cache = model.new_cache(1, prompt.len() + tokens);
            Timer::new(repeats).run(
                &mut cache,
                |cache| {
                    cache.reset();
                    step(model, cache, &prompt).map(drop)
                },
                |cache| {
                    let mut token = prompt[0];
                    for _ in 0..tokens {
                        token = step(model, cache, &[token])?;
                    }
                    Ok(())
                },
            )
        }
    }
}

/// Process tokens and read back the most likely next one.
fn step<B: Backend>(model: &Llama4ForCausalLM<B>, cache: &mut KvCache<B>, tokens: &[u32]) -> Result<u32> {
    let batch = TokenBatch::single(tokens, &model.device());
    let output = model.forward(&batch, cache, &ForwardOptions::default())?;
    let chosen: Vec<u32> = output.last_logits.argmax(1).into_data().iter::<u32>().collect();
    Ok(chosen[0])
}
