//! A model as a command line names it: a folder, or the demo model that is part of the program.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use anyhow::{Result, anyhow};
use burn::tensor::DType;
use burn::tensor::backend::Backend;
use llama4::config::{GenerationConfig, PipelineConfig};
use llama4::error::{ImportError, TextError};
use llama4::generate::SamplingParams;
use llama4::import::{Checkpoint, EmbeddedModel, LoadOptions, LoadProgress, ModelSource, StoredDtype, load_lora};
use llama4::memory::MemoryOptions;
use llama4::quant::Quantization;
use llama4::text::{ChatTemplate, Tokenizer};
use llama4::{Llama4Config, Llama4ForCausalLM};
use llama4_backends::Target;

use crate::args::{ModelArgs, WeightArgs};
use crate::exit::{Stopped, usage};
use crate::interrupt::Watch;
use crate::memory;
use crate::output::{Bar, Output};

macro_rules! demo_file {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/demo/", $name))
    };
}

/// What the demo model goes on with where no prompt is given.
pub(crate) const DEMO_PROMPT: &str =
    "The whole family were assembled in the drawing-room when the carriage was heard, and Mrs. Bennet";

/// Empty where the source tree has none.
#[cfg(demo_model)]
const DEMO_WEIGHTS: &[u8] = demo_file!("model.safetensors");
#[cfg(not(demo_model))]
const DEMO_WEIGHTS: &[u8] = &[];

const DEMO: EmbeddedModel = EmbeddedModel {
    config_json: demo_file!("config.json"),
    weights: DEMO_WEIGHTS,
    generation_config_json: Some(demo_file!("generation_config.json")),
    tokenizer_json: Some(demo_file!("tokenizer.json")),
    chat_template: None,
};

/// Where a model's files are.
pub(crate) fn source(args: &ModelArgs) -> ModelSource {
    match &args.model {
        Some(dir) => ModelSource::Directory(dir.clone()),
        None => ModelSource::Embedded(DEMO),
    }
}

/// The tokenizer of a model, whose weights need not be there; a GGUF file has it inside.
pub(crate) fn tokenizer(source: &ModelSource) -> Result<Tokenizer> {
    match source {
        ModelSource::Directory(dir) => match Tokenizer::from_dir(dir) {
            Err(error @ TextError::NoTokenizer { .. }) => {
                let inside =
                    Checkpoint::open(dir.as_path()).ok().and_then(|checkpoint| checkpoint.tokenizer().transpose());
                match inside {
                    Some(tokenizer) => Ok(tokenizer?),
                    None => Err(error.into()),
                }
            }
            tokenizer => Ok(tokenizer?),
        },
        ModelSource::Embedded(files) => Ok(Tokenizer::from_bytes(files.tokenizer_json.unwrap_or_default())?),
    }
}

/// Shows progress on a bar, and has the work stopped by Ctrl-C.
pub(crate) fn follow<'a>(
    bar: &'a Bar,
    message: &'a str,
    watch: &'a Watch,
) -> impl FnMut(LoadProgress<'_>) -> ControlFlow<()> + 'a {
    |progress| {
        bar.at(message, progress.bytes_done, progress.bytes_total);
        if watch.pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// An error of the library; that Ctrl-C was pressed is none.
pub(crate) fn stopped(error: ImportError) -> anyhow::Error {
    match error {
        ImportError::Cancelled { .. } => anyhow!(Stopped(error.to_string())),
        error => error.into(),
    }
}

/// What a user should know about weights that did not become what was asked for, or not without loss.
pub(crate) fn losses(kept_float: &[String], requantised: &BTreeMap<StoredDtype, usize>) -> Option<String> {
    let mut said = Vec::new();
    if let Some(first) = kept_float.first() {
        let count = kept_float.len();
        said.push(format!("{count} weights stay float, their rows are not whole blocks of 32 (the first is {first})"));
    }
    if !requantised.is_empty() {
        let kinds: Vec<String> = requantised.iter().map(|(dtype, count)| format!("{count} {dtype}")).collect();
        said.push(format!("quantised again, from another kind of blocks to ours: {} tensors", kinds.join(", ")));
    }
    (!said.is_empty()).then(|| said.join("; "))
}

/// How a model is about to be run.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) weights: WeightArgs,
    pub(crate) target: Target,
    /// Tokens that each sequence has room for.
    pub(crate) context: usize,
    /// Sequences at once.
    pub(crate) batch: usize,
}

/// A model whose files are found and whose configuration is read, but whose weights are not.
#[derive(Debug)]
pub(crate) struct Model {
    source: ModelSource,
    checkpoint: Checkpoint,
    generation: GenerationConfig,
}

impl Model {
    pub(crate) fn open(args: &ModelArgs) -> Result<Self> {
        let source = source(args);
        if let ModelSource::Embedded(files) = &source
            && files.weights.is_empty()
        {
            return Err(usage("this build carries no demo model: name a checkpoint with --model DIR"));
        }
        let checkpoint = Checkpoint::open(source.clone())?;
        let generation = checkpoint.generation_config()?.unwrap_or_default();
        Ok(Self { source, checkpoint, generation })
    }

    pub(crate) fn is_demo(&self) -> bool {
        matches!(self.source, ModelSource::Embedded(_))
    }

    /// The folder, or words for the demo model.
    pub(crate) fn name(&self) -> String {
        match &self.source {
            ModelSource::Directory(dir) => dir.display().to_string(),
            ModelSource::Embedded(_) => "the demo model".to_owned(),
        }
    }

    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    pub(crate) fn config(&self) -> &Llama4Config {
        self.checkpoint.config()
    }

    pub(crate) fn tokenizer(&self) -> Result<Tokenizer> {
        match self.checkpoint.tokenizer()? {
            Some(tokenizer) => Ok(tokenizer),
            // Says where it was looked for.
            None => tokenizer(&self.source),
        }
    }

    /// The tokenizer, if the model has one: work on ids goes without.
    pub(crate) fn tokenizer_if_any(&self) -> Result<Option<Tokenizer>> {
        match self.checkpoint.tokenizer() {
            Err(ImportError::Text(TextError::OnlyTokenizerModel { .. })) => Ok(None),
            tokenizer => Ok(tokenizer?),
        }
    }

    /// The model's chat template, or Llama 4's where it brings none.
    pub(crate) fn chat_template(&self) -> Result<ChatTemplate> {
        Ok(self.checkpoint.chat_template()?.unwrap_or_default())
    }

    /// Tokens that end a text: those of generation_config.json, else those of config.json, else Llama 4's by name.
    pub(crate) fn end_ids(&self, tokenizer: Option<&Tokenizer>) -> Vec<u32> {
        let given = |ids: &'_ [u32]| (!ids.is_empty()).then(|| ids.to_vec());
        let (first, second) = (given(&self.generation.eos_token_ids), given(&self.config().eos_token_ids));
        match tokenizer {
            Some(tokenizer) => tokenizer.end_ids(first.as_deref(), second.as_deref()),
            None => first.or(second).unwrap_or_default(),
        }
    }

    /// How the model's makers sample from it.
    pub(crate) fn sampling(&self) -> SamplingParams {
        let made = &self.generation;
        let off = SamplingParams::default();
        let number = |value: Option<f64>, otherwise: f32| value.map_or(otherwise, |value| value as f32);
        SamplingParams {
            // As transformers has it: greedy unless told to sample, and then as the logits are.
            temperature: if made.do_sample == Some(true) { number(made.temperature, 1.0) } else { 0.0 },
            top_k: made.top_k.unwrap_or(off.top_k),
            top_p: number(made.top_p, off.top_p),
            min_p: number(made.min_p, off.min_p),
            repetition_penalty: number(made.repetition_penalty, off.repetition_penalty),
            ..off
        }
    }

    /// The room that a sequence gets: what was asked for, else `needed`, at most what the model has.
    pub(crate) fn context(&self, asked: Option<usize>, needed: usize) -> Result<usize> {
        let limit = self.config().max_position_embeddings;
        match asked {
            Some(0) => Err(usage("--context is 0, but a sequence needs room for at least one token")),
            Some(wanted) => {
                let pipeline = PipelineConfig { max_seq_len: Some(wanted), ..PipelineConfig::default() };
                self.config().max_seq_len(&pipeline).map_err(|_| {
                    usage(format!("--context is {wanted}, but {} has at most {limit} positions", self.name()))
                })
            }
            None => Ok(needed.clamp(1, limit)),
        }
    }

    /// Whether there is memory for what is about to be done.
    fn check_memory(&self, run: &Run, dtype: DType, quantization: Option<Quantization>) -> Result<()> {
        if run.weights.force {
            return Ok(());
        }
        let stored = self.checkpoint.hf_config().dtype().unwrap_or(DType::BF16);
        let (context, batch) = (run.context, run.batch);
        let (piece, max_page) = (run.target.backend.prefill_piece(), run.target.max_page());
        let options = MemoryOptions { dtype, stored, quantization, context, batch, piece, max_page };
        let estimate = self.checkpoint.memory(&options)?;
        memory::check(&self.name(), &estimate, run.target)
    }

    /// Load the weights, with a bar. Ctrl-C stops it.
    pub(crate) fn load<B: Backend>(
        &self,
        run: Run,
        device: &B::Device,
        watch: &Watch,
        output: &Output,
    ) -> Result<Llama4ForCausalLM<B>> {
        let precision = run.target.backend.precision(run.weights.float.asked());
        let (dtype, quantization) = (precision.dtype, precision.quantization(run.weights.quantize.quantization()));
        self.check_memory(&run, dtype, quantization)?;
        let bar = output.bytes_bar();
        let message = format!("Loading {}", self.name());
        let loaded = self.checkpoint.load::<B>(
            &LoadOptions {
                dtype: Some(dtype),
                quantization,
                largest_tensor: run.target.largest_tensor(),
                ..LoadOptions::default()
            },
            device,
            follow(&bar, &message, watch),
        );
        drop(bar);
        let loaded = loaded.map_err(stopped)?;
        tracing::info!("{} runs in {}", self.name(), dtype.name());
        if let Some(loss) = losses(&loaded.report.kept_float, &loaded.report.requantised) {
            output.note(loss);
        }
        match &run.weights.lora {
            Some(dir) => Ok(load_lora(loaded.model, dir)?),
            None => Ok(loaded.model),
        }
    }
}
