use anyhow::{Result, ensure};
use burn::tensor::backend::Backend;
use llama4::generate::{Score, score};
use llama4_backends::Task;
use serde_json::json;

use crate::args::PerplexityArgs;
use crate::exit::{Outcome, usage};
use crate::interrupt::Watch;
use crate::model::{Model, Run};
use crate::output::Output;
use crate::{prompt, token_file};

/// The longest window that is chosen without being asked for: the scores of a window's logits take `context * vocab` floats.
const DEFAULT_CONTEXT: usize = 2048;

pub(super) fn run(args: PerplexityArgs, output: &Output) -> Result<Outcome> {
    let model = Model::open(&args.model)?;
    let longest = model.config().max_position_embeddings;
    let context = model.context(args.context, longest.min(DEFAULT_CONTEXT))?;
    let stride = args.stride.unwrap_or(context.div_ceil(2));
    if stride == 0 || stride > context {
        return Err(usage(format!("--stride is {stride}, but it must be within 1 and the context, {context}")));
    }
    if args.parallel == 0 {
        return Err(usage("--parallel is 0, but it must be at least 1"));
    }
    let tokens = match (&args.token_file, &args.text) {
        (Some(file), _) => token_file::read(file, model.config().vocab_size)?,
        (None, text) => model.tokenizer()?.encode(&prompt::resolve(text.as_deref().unwrap_or_default())?, true)?,
    };
    ensure!(
        tokens.len() > 1,
        "{} tokens are too few: the first is given, and at least one more is predicted",
        tokens.len()
    );
    let windows = Windows { context, stride, parallel: args.parallel };
    let target = args.backend.target()?;
    let run = Run { weights: args.weights.clone(), target, context, batch: args.parallel };
    let task = Perplexity { model, tokens, windows, run, output };
    let score = target.run(task)?;
    let (loss, perplexity) = (score.mean(), score.perplexity());
    if args.json {
        let tokens = score.tokens;
        output.json(&json!({
            "tokens": tokens, "loss": loss, "perplexity": perplexity, "context": context, "stride": stride,
        }))?;
    } else {
        output.line(format_args!(
            "loss {loss:.4} nats a token, perplexity {perplexity:.3}, over {} tokens (context {context}, stride {stride})",
            score.tokens
        ))?;
    }
    Ok(Outcome::Done)
}

struct Windows {
    context: usize,
    stride: usize,
    parallel: usize,
}

struct Perplexity<'a> {
    model: Model,
    tokens: Vec<u32>,
    windows: Windows,
    run: Run,
    output: &'a Output,
}

impl Task for Perplexity<'_> {
    type Output = Score;

    fn run<B: Backend>(self, device: &B::Device) -> Result<Score> {
        let model = self.model.load::<B>(self.run, device, &Watch::begin(), self.output)?;
        let Windows { context, stride, parallel } = self.windows;
        Ok(score(&model, &self.tokens, context, stride, parallel)?)
    }
}
