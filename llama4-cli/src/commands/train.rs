use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use burn::tensor::DType;
use burn::tensor::backend::AutodiffBackend;
use llama4::config::{GenerationConfig, HfConfig};
use llama4::import::save_hf;
use llama4::text::Tokenizer;
use llama4_backends::TrainTask;

use crate::args::TrainArgs;
use crate::exit::{Outcome, usage};
use crate::interrupt::Watch;
use crate::output::Output;
use crate::token_file;
use crate::train::{self, Run};

pub(super) fn run(args: TrainArgs, output: &Output) -> Result<Outcome> {
    for (option, value) in [("--log-every", args.log_every), ("--save-every", args.save_every)] {
        if value == 0 {
            return Err(usage(format!("{option} is 0, but it must be at least 1")));
        }
    }
    let config = HfConfig::from_file(&args.config)?.to_model_config()?;
    let vocab = config.vocab_size;
    // What goes beside the model is checked before hours are spent, not after.
    let mut beside: Vec<(PathBuf, &str)> = Vec::new();
    if let Some(file) = args.tokenizer {
        let found = Tokenizer::from_file(&file)?.vocab_size();
        ensure!(found <= vocab, "{} has {found} tokens, but the model has {vocab}", file.display());
        beside.push((file, "tokenizer.json"));
    }
    if let Some(file) = args.generation_config {
        GenerationConfig::from_file(&file)?;
        beside.push((file, "generation_config.json"));
    }
    let run = Run {
        tokens: token_file::read(&args.tokens, vocab)?,
        validation: token_file::read(&args.validation, vocab)?,
        config,
        recipe: args.recipe,
        output: args.output,
        resume: args.resume,
        log_every: args.log_every,
        save_every: args.save_every,
    };
    args.backend.target()?.run_training(Train { run, beside, output })
}

struct Train<'a> {
    run: Run,
    /// Files to put beside the model, and their names there.
    beside: Vec<(PathBuf, &'static str)>,
    output: &'a Output,
}

impl TrainTask for Train<'_> {
    type Output = Outcome;

    fn run<B: AutodiffBackend>(self, device: &B::Device) -> Result<Outcome> {
        let watch = Watch::begin();
        let result = train::train::<B>(&self.run, device, |line| self.output.note(line), || watch.pressed());
        let model = match result {
            Err(error) if watch.pressed() => {
                self.output.warn(format_args!("{error:#}"));
                return Ok(Outcome::Interrupted);
            }
            result => result?,
        };
        let dir = &self.run.output;
        save_hf(&model, dir, DType::BF16)?;
        for (file, name) in &self.beside {
            let target = dir.join(name);
            // A run may be told to use the very files that are there already.
            if target.canonicalize().ok() != file.canonicalize().ok() {
                std::fs::copy(file, &target)
                    .with_context(|| format!("cannot copy {} to {}", file.display(), target.display()))?;
            }
        }
        self.output.note(format_args!("the model is in {}", dir.display()));
        Ok(Outcome::Done)
    }
}
