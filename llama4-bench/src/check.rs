//! `llama4-bench check`: a model's logits with kernels against those of the plain definitions.

use std::fs::OpenOptions;
use std::io::Write;
use std::ops::ControlFlow;

use anyhow::{Context, Result, anyhow, ensure};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, FloatDType};
use llama4::import::SyntheticOptions;
use llama4::nn::{ForwardOptions, TokenBatch};
use llama4::quant::Quantization;
use llama4::{Llama4Config, Llama4ForCausalLM, ops};
use llama4_backends::{Target, Task};
use serde::Serialize;

use crate::args::CheckArgs;
use crate::interrupt;
use crate::machine::{self, Machine};
use crate::output;

/// Tokens of a prompt that go through the model at once: what the plain definitions make of them has to fit beside it.
const PIECE: usize = 256;

/// Compare: whether it came to its end.
pub(crate) fn check(args: &CheckArgs) -> Result<bool> {
    interrupt::install()?;
    let target = args.backend.target()?;
    let config = args.preset.config()?;
    let config = match args.layers {
        Some(layers) => config.with_layers(layers).context("--layers")?,
        None => config,
    };
    let precision = target.backend.precision(args.weights.float.asked());
    let quantization = precision.quantization(args.weights.quantize.quantization());
    let check = Check { args, target, config, dtype: precision.dtype, quantization };
    let differences = target.run(check)?;
    let mut table = String::from(
        "| kernels | positions | deviation of logits | largest difference | mean | same token | within the difference | further apart |\n|---|---|---|---|---|---|---|---|\n",
    );
    for Difference { what, positions, deviation, largest, mean, same, close, apart, .. } in &differences {
        table += &format!(
            "| {what} | {positions} | {deviation:.3} | {largest:.4} | {mean:.5} | {same} | {close} | {apart} |\n"
        );
    }
    output::write(&table)?;
    if let Some(path) = &args.out {
        let mut file = OpenOptions::new().create(true).append(true).open(path);
        for difference in &differences {
            let line = serde_json::to_string(difference)? + "\n";
            let written =
                file.as_mut().map_err(|error| anyhow!("{error}")).and_then(|file| Ok(file.write_all(line.as_bytes())?));
            written.with_context(|| format!("cannot write to {}", path.display()))?;
        }
    }
    let apart: usize = differences.iter().map(|difference| difference.apart).sum();
    ensure!(apart == 0, "{apart} most likely tokens differ by more than the logits do");
    Ok(true)
}

/// What comes of a comparison.
#[derive(Debug, Serialize)]
struct Difference {
    /// How the tokens went through the kernels.
    what: &'static str,
    model: String,
    backend: &'static str,
    dtype: &'static str,
    machine: Machine,
    commit: Option<String>,
    positions: usize,
    /// Standard deviation of the plain logits.
    deviation: f64,
    /// Largest and mean difference of a logit.
    largest: f64,
    mean: f64,
    /// Positions whose most likely token is the same; those where it is not, but the two lie within the largest difference there; and the others.
    same: usize,
    close: usize,
    apart: usize,
}

struct Check<'a> {
    args: &'a CheckArgs,
    target: Target,
    config: Llama4Config,
    dtype: DType,
    quantization: Option<Quantization>,
}

impl Task for Check<'_> {
    type Output = Vec<Difference>;

    fn run<B: Backend>(self, device: &B::Device) -> Result<Self::Output> {
        let options = SyntheticOptions {
            seed: self.args.seed,
            dtype: Some(self.dtype),
            quantization: self.quantization,
            largest_tensor: self.target.largest_tensor(),
        };
        let model = self.config.synthetic::<B>(&options, device, |progress| {
            output::progress(format_args!("making weights: {}", progress.name));
            if interrupt::pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let (tokens, one_by_one) = generate(&model, self.args.tokens)?;
        let as_prompt = prompt(&model, &tokens)?;
        output::progress("the plain definitions");
        let plain = ops::with_plain_definitions(|| prompt(&model, &tokens))?;
        [("one token after the other", one_by_one), ("a prompt", as_prompt)]
            .into_iter()
            .map(|(what, logits)| self.compare(what, &logits, &plain))
            .collect()
    }
}

impl Check<'_> {
    fn compare(&self, what: &'static str, found: &[Vec<f32>], plain: &[Vec<f32>]) -> Result<Difference> {
        let adapters = self.target.backend.adapters()?;
        let adapter = adapters.get(self.target.device.unwrap_or(0)).map_or_else(String::new, ToString::to_string);
        let mut difference = Difference {
            what,
            model: format!("{}, {} layers", self.args.preset, self.config.num_hidden_layers),
            backend: self.target.backend.name(),
            dtype: self.dtype.name(),
            machine: Machine::here(adapter),
            commit: machine::commit(),
            positions: plain.len(),
            deviation: 0.0,
            largest: 0.0,
            mean: 0.0,
            same: 0,
            close: 0,
            apart: 0,
        };
        let (mut count, mut sum, mut squares, mut total) = (0.0, 0.0, 0.0, 0.0);
        for (found, plain) in found.iter().zip(plain) {
            ensure!(found.iter().all(|logit| logit.is_finite()), "a logit is not finite");
            let mut largest = 0.0_f64;
            for (&found, &plain) in found.iter().zip(plain) {
                let off = f64::from(found - plain).abs();
                largest = largest.max(off);
                (count, sum, squares) = (count + 1.0, sum + f64::from(plain), squares + f64::from(plain).powi(2));
                total += off;
            }
            difference.largest = difference.largest.max(largest);
            let (ours, theirs) = (best(found), best(plain));
            match f64::from(plain[theirs] - plain[ours]) {
                _ if ours == theirs => difference.same += 1,
                gap if gap <= largest => difference.close += 1,
                _ => difference.apart += 1,
            }
        }
        difference.mean = total / count;
        difference.deviation = (squares / count - (sum / count).powi(2)).sqrt();
        Ok(difference)
    }
}

/// The place of the largest value, of equal ones the first.
fn best(values: &[f32]) -> usize {
    (0..values.len()).fold(0, |best, at| if values[at] > values[best] { at } else { best })
}

/// So many tokens one after the other, each the most likely, and the logits behind each.
fn generate<B: Backend>(model: &Llama4ForCausalLM<B>, count: usize) -> Result<(Vec<u32>, Vec<Vec<f32>>)> {
    let mut cache = model.new_cache(1, count);
    let (mut tokens, mut logits) = (vec![1_u32], Vec::new());
    for _ in 0..count {
        interrupt::check()?;
        let batch = TokenBatch::new(&[(0, &tokens[tokens.len() - 1..])], &model.device());
        let output = model.forward(&batch, &mut cache, &ForwardOptions::default())?;
        let last: Vec<f32> = output.last_logits.into_data().iter::<f32>().collect();
        tokens.push(best(&last) as u32);
        logits.push(last);
    }
    tokens.pop();
    Ok((tokens, logits))
}

/// The logits behind each token of a prompt.
fn prompt<B: Backend>(model: &Llama4ForCausalLM<B>, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
    let mut cache = model.new_cache(1, tokens.len());
    let mut all = Vec::new();
    for piece in tokens.chunks(PIECE) {
        interrupt::check()?;
        let batch = TokenBatch::new(&[(0, piece)], &model.device());
        let output = model.forward(&batch, &mut cache, &ForwardOptions::all_logits())?;
        let logits = output.logits.context("all logits were asked for")?.cast(FloatDType::F32);
        let columns = logits.dims()[1];
        let values: Vec<f32> = logits.into_data().iter::<f32>().collect();
        all.extend(values.chunks(columns).map(<[f32]>::to_vec));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &CheckArgs) -> Check<'_> {
        Check {
            args,
            target: args.backend.target().unwrap(),
            config: Llama4Config::cpu(),
            dtype: DType::F32,
            quantization: None,
        }
    }

    #[test]
    fn close_tokens_may_differ_and_others_may_not() {
        use clap::Parser;
        let cli = crate::args::Cli::parse_from(["llama4-bench", "check"]);
        let crate::args::Command::Check(args) = cli.command else { panic!("check was asked for") };
        let plain = [vec![1.0, 0.97, 0.0], vec![2.0, 0.0, 0.0], vec![0.0, 3.0, 0.0]];
        let found = [vec![0.95, 0.96, 0.0], vec![2.1, 0.0, 0.0], vec![0.0, 3.0, 0.0]];
        let difference = check(&args).compare("test", &found, &plain).unwrap();
        assert_eq!((difference.same, difference.close, difference.apart), (2, 1, 0));
        assert!((difference.largest - 0.1).abs() < 1e-6, "{difference:?}");
        // Off by 0.07 both, which makes up for a distance of 0.1.
        let (plain, wrong) = ([vec![1.0, 0.9]], [vec![0.93, 0.97]]);
        assert_eq!(check(&args).compare("test", &wrong, &plain).unwrap().apart, 1);
        let nan = [vec![f32::NAN, 0.0, 0.0]];
        assert!(check(&args).compare("test", &nan, &plain).is_err());
    }
}
