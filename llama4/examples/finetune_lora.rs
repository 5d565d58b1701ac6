//! Fine-tune a model with LoRA adapters on a few sentences, save them in PEFT's format, load them into a fresh model, merge, generate.
//!
//! ```sh
//! cargo run -p llama4 --example finetune_lora -- [FOLDER [ADAPTER_FOLDER]]
//! ```

use std::error::Error;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::optim::{AdamWConfig, GradientsParams, Optimizer};
use burn::tensor::activation::log_softmax;
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{ElementConversion, Int, Tensor, TensorData};
use burn_autodiff::Autodiff;
use llama4::Llama4ForCausalLM;
use llama4::generate::{Request, SamplingParams, Session, StopConditions};
use llama4::import::{LoadOptions, load, load_lora, save_lora};
use llama4::nn::{ForwardOptions, LoraConfig, TokenBatch};
use llama4::text::Tokenizer;

#[path = "support/backend.rs"]
mod backend;

const TEXT: &str = "The keeper of the lighthouse counts the ships. One ship carries salt, one ship carries letters, and one ship \
    carries nothing but the wind. When the fog comes in, the keeper of the lighthouse rings the bell and counts again.";
const PROMPT: &str = "The keeper of the";
const LEARNING_RATE: f64 = 3e-3;

/// What came of it.
pub struct Outcome {
    /// Loss before the first step and after the last, in nats a token.
    pub losses: (f64, f64),
    /// Largest difference of a logit between the trained model and the one that was loaded and merged.
    pub difference: f64,
    /// What the merged model generates.
    pub text: String,
}

/// Logits of every position of `tokens`, `[tokens, vocab]`.
pub fn logits<B: Backend>(model: &Llama4ForCausalLM<B>, tokens: &[u32]) -> Result<Tensor<B, 2>, Box<dyn Error>> {
    let batch = TokenBatch::single(tokens, &model.device());
    let output = model.forward(&batch, &mut model.new_cache(1, tokens.len()), &ForwardOptions::all_logits())?;
    output.logits.ok_or_else(|| "all logits were asked for".into())
}

/// Mean negative log-likelihood of each next token, `[1]`.
pub fn next_token_loss<B: Backend>(
    model: &Llama4ForCausalLM<B>,
    tokens: &[u32],
) -> Result<Tensor<B, 1>, Box<dyn Error>> {
    let next: Vec<i32> = tokens[1..].iter().map(|&id| id as i32).collect();
    let next = TensorData::new(next, [tokens.len() - 1, 1]);
    let next = Tensor::<B, 2, Int>::from_data(next, &model.device());
    Ok(log_softmax(logits(model, &tokens[..tokens.len() - 1])?, 1).gather(1, next).mean().neg())
}

/// Train, save, load, merge and generate, on any backend that differentiates.
///
/// # Errors
/// When the checkpoint does not load, or the adapter cannot be written.
pub fn finetune<B: AutodiffBackend>(
    checkpoint: &Path,
    adapter: &Path,
    steps: usize,
    device: &B::Device,
    out: &mut dyn Write,
) -> Result<Outcome, Box<dyn Error>> {
    let tokenizer = Tokenizer::from_dir(checkpoint)?;
    let tokens = tokenizer.encode(TEXT, true)?;
    // With `quantization: Some(Quantization::q4())` here this is QLoRA.
    let options = LoadOptions::default();
    let model = load::<B>(checkpoint, &options, device, |_| ControlFlow::Continue(()))?.model;
    let mut model = model.with_lora(&LoraConfig::new().with_rank(8).with_alpha(16.0))?;
    writeln!(out, "training {} values", model.lora_parameters())?;

    let mut optimizer = AdamWConfig::new().with_weight_decay(0.0).init();
    let first = next_token_loss(&model, &tokens)?.into_scalar().elem::<f64>();
    for _ in 0..steps {
        let gradients = next_token_loss(&model, &tokens)?.backward();
        let gradients = GradientsParams::from_grads(gradients, &model);
        model = optimizer.step(LEARNING_RATE, model, gradients);
    }
    let last = next_token_loss(&model, &tokens)?.into_scalar().elem::<f64>();
    writeln!(out, "loss {first:.3} before, {last:.3} after {steps} steps")?;
    save_lora(&model, adapter, checkpoint.to_str())?;
    writeln!(out, "saved to {}", adapter.display())?;

    // As another program would: without autodiff, from files.
    let fresh = load::<B::InnerBackend>(checkpoint, &options, device, |_| ControlFlow::Continue(()))?.model;
    let merged = load_lora(fresh, adapter)?.merge_lora()?;
    let trained = logits(&model, &tokens)?.inner();
    let difference = (logits(&merged, &tokens)? - trained).abs().max().into_scalar().elem::<f64>();
    writeln!(out, "merged logits differ by at most {difference:.1e}")?;

    let mut session = Session::new(&merged, 1, 64).with_tokenizer(&tokenizer);
    let request = Request {
        prompt: tokenizer.encode(PROMPT, true)?,
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        stop: StopConditions { max_new_tokens: Some(20), ..StopConditions::default() },
    };
    let text = session.generate(&request, |_| ControlFlow::Continue(()))?.text.unwrap_or_default();
    writeln!(out, "{PROMPT}{text}")?;
    Ok(Outcome { losses: (first, last), difference, text })
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let checkpoint = arguments.next().unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/demo").to_string());
    let adapter = arguments.next().map_or_else(|| std::env::temp_dir().join("llama4-lora"), PathBuf::from);
    let device = Default::default();
    finetune::<Autodiff<backend::Backend>>(checkpoint.as_ref(), &adapter, 40, &device, &mut io::stdout())?;
    Ok(())
}
