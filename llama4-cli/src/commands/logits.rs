use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Tensor};
use llama4::config::{ReturnHiddenStates, ReturnLogits};
use llama4::nn::{ForwardOptions, TokenBatch};
use llama4_backends::Task;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::args::LogitsArgs;
use crate::exit::{Outcome, Stopped, usage};
use crate::interrupt::Watch;
use crate::model::{Model, Run};
use crate::output::Output;

/// Tokens that go through the model at once; between pieces Ctrl-C is heard.
const PIECE: usize = 512;

pub(super) fn run(args: LogitsArgs, output: &Output) -> Result<Outcome> {
    let model = Model::open(&args.model)?;
    let config = model.config();
    args.hidden_states
        .validate(config.num_hidden_layers)
        .map_err(|error| usage(format!("--hidden-states: {error}")))?;
    let (tokens, vocab) = (args.tokens.0, config.vocab_size);
    if let Some(id) = tokens.iter().find(|id| **id as usize >= vocab) {
        return Err(usage(format!(
            "--tokens: {id} is not a token of {}, which has {vocab} (0 to {})",
            model.name(),
            vocab - 1
        )));
    }
    let limit = config.max_position_embeddings;
    if tokens.len() > limit {
        let count = tokens.len();
        return Err(usage(format!("--tokens: {count} tokens, but {} has at most {limit} positions", model.name())));
    }
    // Where the file cannot be written, say so before the work is done.
    let file = args.output;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure!(folder.is_dir(), "cannot write {}: {} is not a folder", file.display(), folder.display());
    ensure!(!file.is_dir(), "cannot write {}: it is a folder", file.display());
    let (count, shown) = (tokens.len(), file.display().to_string());
    let target = args.backend.target()?;
    let run = Run { weights: args.weights.clone(), target, context: tokens.len(), batch: 1 };
    let task = Logits { model, tokens, file, mode: args.hidden_states, run, output };
    target.run(task)?;
    output.note(format_args!("wrote the logits of {count} tokens to {shown}"));
    Ok(Outcome::Done)
}

struct Logits<'a> {
    model: Model,
    tokens: Vec<u32>,
    file: PathBuf,
    mode: ReturnHiddenStates,
    run: Run,
    output: &'a Output,
}

impl Task for Logits<'_> {
    type Output = ();

    fn run<B: Backend>(self, device: &B::Device) -> Result<()> {
        let watch = Watch::begin();
        let model = self.model.load::<B>(self.run, device, &watch, self.output)?;
        let mut cache = model.new_cache(1, self.tokens.len());
        let options =
            ForwardOptions { logits: ReturnLogits::All, hidden_states: self.mode.clone(), ..ForwardOptions::default() };
        let only_last = matches!(self.mode, ReturnHiddenStates::Last | ReturnHiddenStates::LastPerDevice);
        let mut logits = Rows::default();
        let mut hidden: Vec<Rows> = Vec::new();
        for piece in self.tokens.chunks(PIECE) {
            if watch.pressed() {
                return Err(Stopped(format!("stopped; {} is not written", self.file.display())).into());
            }
            let result = model.forward(&TokenBatch::single(piece, device), &mut cache, &options)?;
            logits.append(result.logits.context("the forward pass was asked for all logits")?);
            if only_last {
                hidden.clear();
            }
            hidden.resize_with(result.hidden_states.len(), Rows::default);
            for (rows, states) in hidden.iter_mut().zip(result.hidden_states) {
                rows.append(states);
            }
        }
        let layered = matches!(self.mode, ReturnHiddenStates::SelectedLayers(_));
        let words = HashMap::from([
            ("tokens".to_owned(), self.tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
            ("hidden_states".to_owned(), self.mode.to_string()),
        ]);
        write(&self.file, logits, hidden, layered, words)
    }
}

/// Rows of `f32` on the host, as bytes.
#[derive(Debug, Default)]
struct Rows {
    columns: usize,
    bytes: Vec<u8>,
}

impl Rows {
    fn append<B: Backend>(&mut self, rows: Tensor<B, 2>) {
        self.columns = rows.dims()[1];
        let data = rows.cast(FloatDType::F32).into_data();
        self.bytes.extend(data.iter::<f32>().flat_map(f32::to_le_bytes));
    }

    fn shape(&self) -> Vec<usize> {
        vec![self.bytes.len() / size_of::<f32>() / self.columns.max(1), self.columns]
    }
}

/// Write the whole file beside its place, then put it there.
fn write(file: &Path, logits: Rows, hidden: Vec<Rows>, layered: bool, words: HashMap<String, String>) -> Result<()> {
    let stacked: Vec<u8> = hidden.iter().flat_map(|rows| rows.bytes.iter().copied()).collect();
    let mut tensors = vec![("logits", TensorView::new(Dtype::F32, logits.shape(), &logits.bytes)?)];
    if let Some(first) = hidden.first() {
        let layers = if layered { vec![hidden.len()] } else { Vec::new() };
        let shape = layers.into_iter().chain(first.shape()).collect();
        tensors.push(("hidden_states", TensorView::new(Dtype::F32, shape, &stacked)?));
    }
    let failed = || format!("cannot write {}", file.display());
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = file.with_file_name(name);
    let written = safetensors::serialize_to_file(tensors, Some(words), &partial)
        .with_context(failed)
        .and_then(|()| std::fs::rename(&partial, file).with_context(failed));
    if written.is_err() {
        // What is left of it is of no use.
        let _ = std::fs::remove_file(&partial);
    }
    written
}
