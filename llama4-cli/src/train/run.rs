use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use burn::module::{AutodiffModule, Module, ModuleVisitor, Param, ParamId};
use burn::optim::{AdamWConfig, GradientsParams, Optimizer};
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{ElementConversion, Tensor};
use llama4::Llama4Config;
use llama4::generate::score;
use llama4::nn::{ForwardOptions, Llama4ForCausalLM, TokenBatch, Training};

use super::checkpoint::{self, State};
use super::clip::clip_by_norm;
use super::curve::{Curve, Point};
use super::data::Shuffled;
use super::{Recipe, loss};

/// Windows that a validation runs at once.
const VALIDATION_ROWS: usize = 16;

/// What to train, on what, where to.
pub(crate) struct Run {
    pub(crate) config: Llama4Config,
    pub(crate) recipe: Recipe,
    pub(crate) tokens: Vec<u32>,
    pub(crate) validation: Vec<u32>,
    /// Folder for checkpoint and loss curve.
    pub(crate) output: PathBuf,
    /// Go on from the checkpoint in `output`.
    pub(crate) resume: bool,
    /// Steps between lines of the loss curve.
    pub(crate) log_every: usize,
    /// Steps between validations and checkpoints.
    pub(crate) save_every: usize,
}

/// Train; the trained model, without its gradients. `report` gets a line for people now and then, `stop` is asked after every step.
pub(crate) fn train<B: AutodiffBackend>(
    run: &Run,
    device: &B::Device,
    mut report: impl FnMut(&str),
    stop: impl Fn() -> bool,
) -> Result<Llama4ForCausalLM<B::InnerBackend>> {
    let recipe = &run.recipe;
    std::fs::create_dir_all(&run.output).with_context(|| format!("cannot create {}", run.output.display()))?;
    B::seed(device, recipe.seed);
    let training = Training { dropout: recipe.dropout, every_expert: recipe.every_expert };
    let mut model = run.config.init::<B>(device).for_training(training);
    let adam = AdamWConfig::new().with_beta_2(0.95).with_epsilon(1e-8);
    // Decay would pull the gains of the norms to zero, and with them the logits.
    let mut optimizers =
        [adam.clone().with_weight_decay(recipe.weight_decay).init(), adam.with_weight_decay(0.0).init()];
    let (mut done, mut before) = (0, 0.0);
    if run.resume {
        let state;
        (model, optimizers, state) = checkpoint::load(&run.output, model, optimizers, recipe, device)?;
        (done, before) = (state.step, state.seconds);
        report(&format!("resumed after step {done}"));
    }
    // Only now: a loaded model has the ids that it was saved with.
    let gains = gains::<B, _>(&model);
    let mut data = Shuffled::new(&run.tokens, recipe.sequence_length, recipe.batch_size, recipe.seed)?;
    report(&format!(
        "{} steps of {} tokens, {:.1} epochs",
        recipe.steps,
        recipe.batch_size * recipe.sequence_length,
        recipe.steps as f64 / data.steps_per_epoch() as f64
    ));
    let mut curve = Curve::open(&run.output.join("loss.csv"), done)?;
    let start = Instant::now();
    let mut sums = Sums::default();

    for step in done..recipe.steps {
        let sequences = data.step(step);
        let rows: Vec<(usize, &[u32])> = sequences.inputs.iter().copied().enumerate().collect();
        let batch = TokenBatch::new(&rows, device);
        let mut cache = model.new_cache(recipe.batch_size, recipe.sequence_length);
        let options = ForwardOptions { trace: true, ..ForwardOptions::all_logits() };
        let output = model.forward(&batch, &mut cache, &options)?;
        let logits = output.logits.context("the forward pass was asked for all logits")?;
        let loss = loss::cross_entropy(logits, &sequences.targets);
        let balance = output.trace.as_ref().and_then(loss::balance);
        sums.add(&loss, balance.as_ref());
        let total = match balance {
            Some(balance) => loss + balance * recipe.balance,
            None => loss,
        };
        let mut gradients = total.backward();
        let mut of_gains = GradientsParams::from_params(&mut gradients, &model, &gains);
        let mut of_matrices = GradientsParams::from_grads(gradients, &model);
        clip_by_norm::<B, _>(&model, &mut [&mut of_matrices, &mut of_gains], recipe.clip);
        for (optimizer, gradients) in optimizers.iter_mut().zip([of_matrices, of_gains]) {
            model = optimizer.step(recipe.rate(step), model, gradients);
        }

        let at = step + 1;
        let (last, stopped) = (at == recipe.steps, stop());
        let saves = at % run.save_every == 0 || last || stopped;
        if at % run.log_every == 0 || saves {
            let (train, balance) = sums.take();
            let validation = saves.then(|| validate(&model.valid(), run)).transpose()?;
            let seconds = before + start.elapsed().as_secs_f64();
            let tokens = at * recipe.batch_size * recipe.sequence_length;
            let rate = recipe.rate(step);
            curve.push(Point { step: at, tokens, rate, train, balance, validation, seconds })?;
            let validation = validation.map(|loss| format!(", validation {loss:.4}")).unwrap_or_default();
            report(&format!("step {at}: loss {train:.4}, balance {balance:.3}{validation}, {seconds:.0} s"));
            if saves {
                let state = State { step: at, seconds, recipe: recipe.clone() };
                checkpoint::save(&run.output, &model, &optimizers, &state)?;
            }
        }
        if stopped {
            anyhow::bail!("stopped after step {at}; go on with --resume");
        }
    }
    Ok(model.valid().for_training(Training::default()))
}

/// The gains of the norms and the biases: all parameters of one axis.
fn gains<B: Backend, M: Module<B>>(model: &M) -> Vec<ParamId> {
    struct Gains(Vec<ParamId>);
    impl<B: Backend> ModuleVisitor<B> for Gains {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            if D == 1 {
                self.0.push(param.id);
            }
        }
    }
    let mut gains = Gains(Vec::new());
    model.visit(&mut gains);
    gains.0
}

/// Mean loss over the validation text, in nats a token.
fn validate<B: Backend>(model: &Llama4ForCausalLM<B>, run: &Run) -> Result<f64> {
    let length = run.recipe.sequence_length;
    Ok(score(model, &run.validation, length, length, VALIDATION_ROWS)?.mean())
}

/// Losses since the last report, kept on the device so that a step does not wait for them.
#[derive(Default)]
struct Sums<B: Backend> {
    losses: Option<(Tensor<B, 1>, Option<Tensor<B, 1>>)>,
    count: usize,
}

impl<B: AutodiffBackend> Sums<B> {
    fn add(&mut self, loss: &Tensor<B, 1>, balance: Option<&Tensor<B, 1>>) {
        let (loss, balance) = (loss.clone().detach(), balance.map(|balance| balance.clone().detach()));
        self.losses = Some(match self.losses.take() {
            None => (loss, balance),
            Some((losses, balances)) => (losses + loss, balances.zip(balance).map(|(sum, balance)| sum + balance)),
        });
        self.count += 1;
    }

    /// Mean loss and mean balance loss.
    fn take(&mut self) -> (f64, f64) {
        let count = std::mem::take(&mut self.count) as f64;
        match self.losses.take() {
            None => (f64::NAN, f64::NAN),
            Some((losses, balances)) => {
                let mean = |sum: Tensor<B, 1>| sum.into_scalar().elem::<f64>() / count;
                (mean(losses), balances.map_or(0.0, mean))
            }
        }
    }
}
