//! Load a checkpoint and stream the text that it goes on with.
//!
//! ```sh
//! cargo run -p llama4 --example generate -- [FOLDER [PROMPT]]
//! ```

use std::error::Error;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::backend::Backend;
use llama4::generate::{Event, Request, SamplingParams, Session, StopConditions};
use llama4::import::{LoadOptions, load};
use llama4::text::Tokenizer;

#[path = "support/backend.rs"]
mod backend;

/// Continue `prompt` by at most `tokens` tokens, on any backend.
///
/// # Errors
/// When the checkpoint does not load, or the prompt does not fit it.
pub fn generate<B: Backend>(
    checkpoint: &Path,
    prompt: &str,
    tokens: usize,
    device: &B::Device,
    out: &mut dyn Write,
) -> Result<(), Box<dyn Error>> {
    let model = load::<B>(checkpoint, &LoadOptions::default(), device, |_| ControlFlow::Continue(()))?.model;
    let tokenizer = Tokenizer::from_dir(checkpoint)?;

    let prompt_ids = tokenizer.encode(prompt, true)?;
    let mut session = Session::new(&model, 1, prompt_ids.len() + tokens).with_tokenizer(&tokenizer);
    let request = Request {
        prompt: prompt_ids,
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        stop: StopConditions {
            end_ids: tokenizer.end_ids(None, Some(&model.config().eos_token_ids)),
            max_new_tokens: Some(tokens),
            ..StopConditions::default()
        },
    };
    write!(out, "{prompt}")?;
    session.generate(&request, |event| {
        let (Event::Token { text, .. } | Event::Finished { text, .. }) = event else {
            return ControlFlow::Continue(());
        };
        // Nobody reads any more: stop.
        match write!(out, "{text}").and_then(|()| out.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    writeln!(out)?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let checkpoint = arguments.next().unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/demo").to_string());
    let prompt = arguments.next().unwrap_or("The whole family were assembled".to_string());
    generate::<backend::Backend>(checkpoint.as_ref(), &prompt, 60, &Default::default(), &mut io::stdout())
}
