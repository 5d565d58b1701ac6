//! Read hidden states: how alike a model finds sentences, layer by layer, as the cosine of their mean hidden states.
//!
//! ```sh
//! cargo run -p llama4 --example hidden_states -- [FOLDER]
//! ```

use std::error::Error;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::backend::Backend;
use burn::tensor::{ElementConversion, Tensor};
use llama4::Llama4ForCausalLM;
use llama4::config::{ReturnHiddenStates, ReturnLogits};
use llama4::import::{LoadOptions, load};
use llama4::nn::{ForwardOptions, TokenBatch};
use llama4::text::Tokenizer;

#[path = "support/backend.rs"]
mod backend;

/// Mean over the sentence of the residual stream after each layer of `layers`: `[hidden]` each.
///
/// # Errors
/// When a layer is not the model's.
pub fn mean_states<B: Backend>(
    model: &Llama4ForCausalLM<B>,
    sentence: &[u32],
    layers: &[usize],
) -> Result<Vec<Tensor<B, 1>>, Box<dyn Error>> {
    let options = ForwardOptions {
        logits: ReturnLogits::LastToken,
        hidden_states: ReturnHiddenStates::SelectedLayers(layers.to_vec()),
        ..ForwardOptions::default()
    };
    let batch = TokenBatch::single(sentence, &model.device());
    let output = model.forward(&batch, &mut model.new_cache(1, sentence.len()), &options)?;
    Ok(output.hidden_states.into_iter().map(|states| states.mean_dim(0).squeeze()).collect())
}

/// The cosine of the angle between two vectors.
pub fn cosine<B: Backend>(a: Tensor<B, 1>, b: Tensor<B, 1>) -> f64 {
    let dot = |a: &Tensor<B, 1>, b: &Tensor<B, 1>| (a.clone() * b.clone()).sum().into_scalar().elem::<f64>();
    dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()
}

/// For every layer, how alike the first sentence is to each of the others; on any backend.
///
/// # Errors
/// When the checkpoint does not load, or has no tokenizer.
pub fn likeness<B: Backend>(
    checkpoint: &Path,
    sentences: &[&str],
    device: &B::Device,
    out: &mut dyn Write,
) -> Result<Vec<Vec<f64>>, Box<dyn Error>> {
    let model = load::<B>(checkpoint, &LoadOptions::default(), device, |_| ControlFlow::Continue(()))?.model;
    let tokenizer = Tokenizer::from_dir(checkpoint)?;
    let layers: Vec<usize> = (0..model.config().num_hidden_layers).collect();
    let mut states = Vec::new();
    for sentence in sentences {
        states.push(mean_states(&model, &tokenizer.encode(sentence, true)?, &layers)?);
    }
    let mut table = Vec::new();
    for &layer in &layers {
        let row: Vec<f64> =
            states.iter().skip(1).map(|other| cosine(states[0][layer].clone(), other[layer].clone())).collect();
        writeln!(out, "layer {layer}: {row:.3?}")?;
        table.push(row);
    }
    Ok(table)
}

fn main() -> Result<(), Box<dyn Error>> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/demo").to_string();
    let checkpoint = std::env::args().nth(1).unwrap_or(default);
    let sentences = ["She was walking in the garden.", "He was walking in the park.", "The ship sank at midnight!"];
    let mut out = io::stdout();
    for sentence in &sentences[1..] {
        writeln!(out, "{:?} and {sentence:?}", sentences[0])?;
    }
    likeness::<backend::Backend>(checkpoint.as_ref(), &sentences, &Default::default(), &mut out)?;
    Ok(())
}
