//! `llama4-bench run`: a model, the machine's limits, and case after case.

mod model_cases;
mod operations;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use burn::tensor::DType;
use burn::tensor::backend::Backend;
use chrono::{SecondsFormat, Utc};
use llama4::error::ImportError;
use llama4::import::{Checkpoint, LoadOptions, LoadProgress, SyntheticOptions};
use llama4::memory::MemoryOptions;
use llama4::ops::computes_in;
use llama4::quant::Quantization;
use llama4::{Llama4Config, Llama4ForCausalLM};
use llama4_backends::{Target, Task};

use crate::args::RunArgs;
use crate::case::{Case, Operation};
use crate::cost::{Cost, Work};
use crate::harness::{Budget, Sample};
use crate::interrupt::{self, Stopped};
use crate::limits::Limits;
use crate::machine::{self, Machine};
use crate::output;
use crate::peer::{LlamaCpp, Rates};
use crate::record::{Lines, Memory, Model, Packings, Record, SCHEMA, Share};
use crate::table;

use operations::Shapes;

/// Tokens of an operation that is measured with many.
const MANY: usize = 512;

/// Run it: whether it came to its end.
pub(crate) fn run(args: &RunArgs) -> Result<bool> {
    interrupt::install()?;
    let target = args.backend.target()?;
    let precision = target.backend.precision(args.weights.float.asked());
    let checkpoint = args.model.as_deref().map(Checkpoint::open).transpose()?;
    let config = match &checkpoint {
        Some(checkpoint) => checkpoint.config().clone(),
        None => args.preset.config()?,
    };
    let config = match args.layers {
        Some(layers) => config.with_layers(layers).context("--layers")?,
        None => config,
    };
    let quantization = precision.quantization(args.weights.quantize.quantization());
    let peer = match (&args.llama_bench, &args.llama_model) {
        (Some(program), Some(model)) => Some(LlamaCpp::new(program, model, &config, precision.dtype, quantization)?),
        _ => None,
    };
    let lines = args.out.as_deref().map(Lines::append).transpose()?;
    let budget = Budget { repeats: args.repeats, time: Duration::from_secs_f64(args.max_seconds) };
    let adapters = target.backend.adapters()?;
    let adapter = adapters.get(target.device.unwrap_or(0)).map_or_else(String::new, ToString::to_string);
    let model = Model {
        name: args.model.as_ref().map_or_else(|| args.preset.to_string(), |path| path.display().to_string()),
        layers: config.num_hidden_layers,
        parameters: config.parameter_count().total(),
        dtype: precision.dtype.name().to_owned(),
        quantization: quantization.map(|Quantization { weights, head, embedding }| Packings {
            weights,
            head,
            embedding,
        }),
        seed: checkpoint.is_none().then_some(args.seed),
    };
    let run = Run {
        cases: cases(args, &config),
        args,
        target,
        config,
        dtype: precision.dtype,
        quantization,
        checkpoint,
        budget,
        machine: Machine::here(adapter),
        commit: machine::commit(),
        model,
        peer,
        lines,
    };
    let (records, stopped) = target.run(run)?;
    if !args.json && !records.is_empty() {
        output::write(&table::markdown(&records))?;
    }
    Ok(!stopped)
}

/// What the arguments ask for, each case once. Cases that reach further than the model's positions are left out, and said.
fn cases(args: &RunArgs, config: &Llama4Config) -> Vec<Case> {
    let tokens = args.decode_tokens;
    let prefill = args.prefill.0.iter().map(|&tokens| Case::Prefill { tokens: tokens.max(1) });
    let decode = args.decode.0.iter().map(|&depth| Case::Decode { sequences: 1, depth, tokens });
    let depth = args.batch_depth;
    let together = args.batch_tokens.unwrap_or(tokens);
    let batch = args.batch.0.iter().map(|&rows| Case::Decode { sequences: rows.max(1), depth, tokens: together });
    let operations = Operation::ALL.into_iter().flat_map(|operation| {
        // How many tokens there are changes nothing about unpacking a weight.
        let passes = if operation == Operation::UnpackRows { &[1][..] } else { &[1, MANY] };
        passes.iter().map(move |&tokens| Case::Operation { operation, tokens })
    });
    let load = args.model.iter().map(|_| Case::Load);
    let mut cases: Vec<Case> = Vec::new();
    for case in load.chain(prefill).chain(decode).chain(batch).chain(operations.filter(|_| args.ops)) {
        if case.positions() > config.max_position_embeddings {
            output::say(format_args!("left out: {case}, the model has {} positions", config.max_position_embeddings));
        } else if !cases.contains(&case) {
            cases.push(case);
        }
    }
    cases
}

/// All that a run needs besides its backend.
struct Run<'a> {
    args: &'a RunArgs,
    target: Target,
    config: Llama4Config,
    dtype: DType,
    quantization: Option<Quantization>,
    checkpoint: Option<Checkpoint>,
    cases: Vec<Case>,
    budget: Budget,
    machine: Machine,
    commit: Option<String>,
    model: Model,
    peer: Option<LlamaCpp>,
    lines: Option<Lines>,
}

/// A measured case.
struct Measured {
    sample: Sample,
    /// Units of work in a repeat.
    work: f64,
    cost: Option<Cost>,
    rates: Rates,
    /// The case in words.
    name: String,
}

impl Task for Run<'_> {
    /// What was measured, and whether Ctrl-C ended it early.
    type Output = (Vec<Record>, bool);

    fn run<B: Backend>(mut self, device: &B::Device) -> Result<Self::Output> {
        let mut records = Vec::new();
        match self.measure::<B>(device, &mut records) {
            Ok(()) => Ok((records, interrupt::pressed())),
            Err(error) if error.is::<Stopped>() => Ok((records, true)),
            Err(error) => Err(error),
        }
    }
}

impl Run<'_> {
    fn measure<B: Backend>(&mut self, device: &B::Device, records: &mut Vec<Record>) -> Result<()> {
        if !computes_in::<B>(device, self.dtype) {
            let backend = B::name(device);
            return Err(ImportError::BackendDtype { dtype: self.dtype, backend }.into());
        }
        self.check_memory()?;
        output::progress(format_args!("measuring the limits of {}", self.machine.adapter));
        let limits = Limits::measure::<B>(self.target, self.dtype, device)?;
        // What was measured with is not memory that the model takes.
        B::memory_cleanup(device);
        output::say(format_args!(
            "limits: {:.1} GB/s ({}); {:.1} GFLOP/s ({})",
            limits.read_bytes_per_second / 1e9,
            limits.read_how,
            limits.operations_per_second / 1e9,
            limits.operations_how
        ));
        let mut model = None;
        // The most memory while the model was made; what other cases took does not count for the next.
        let mut made = None;
        let cases = self.cases.clone();
        for (number, case) in cases.iter().enumerate() {
            interrupt::check()?;
            machine::forget_peak();
            output::progress(format_args!("{} of {}: {case}", number + 1, cases.len()));
            if let Some(why) = self.peer.as_ref().and_then(|peer| peer.lacks(case)) {
                output::say(format_args!("not compared: {case}, {why}"));
            }
            let measured = match *case {
                Case::Load => {
                    let measured = self.load::<B>(device, &mut model)?;
                    made = machine::peak_memory();
                    measured
                }
                Case::Operation { operation, tokens } => self.operation::<B>(device, operation, tokens)?,
                _ => {
                    if model.is_none() {
                        model = Some(self.model::<B>(device)?);
                        made = machine::peak_memory();
                        machine::forget_peak();
                    }
                    let Some(model) = &model else { unreachable!("made above") };
                    self.on_model(model, case).with_context(|| format!("{case}"))?
                }
            };
            let record = self.record(case, measured, &limits, made.max(machine::peak_memory()));
            if let Some(lines) = &mut self.lines {
                lines.push(&record)?;
            }
            if self.args.json {
                output::write(&(serde_json::to_string(&record)? + "\n"))?;
            }
            records.push(record);
        }
        Ok(())
    }

    /// # Errors
    /// Where weights and cache will not fit what is free.
    fn check_memory(&self) -> Result<()> {
        let longest = self.cases.iter().map(Case::positions).max().unwrap_or(1).max(1);
        let options = |context, batch| MemoryOptions {
            dtype: self.dtype,
            stored: self.dtype,
            quantization: self.quantization,
            context,
            batch,
            piece: self.target.backend.prefill_piece(),
            max_page: self.target.max_page(),
        };
        let needs = self.cases.iter().map(|case| match *case {
            Case::Decode { sequences, depth, tokens } => options(depth + tokens, sequences),
            _ => options(longest, 1),
        });
        let needed = needs.map(|options| self.config.memory(&options).device()).max().unwrap_or(0);
        match self.target.free_memory() {
            Some(free) if needed > free => Err(anyhow!(
                "{} needs about {:.1} GB and {} has {:.1} GB free; take fewer --layers, --quantize, shorter cases",
                self.model.shape(),
                needed as f64 / 1e9,
                self.target.memory_name(),
                free as f64 / 1e9
            )),
            _ => Ok(()),
        }
    }

    /// The checkpoint, or random weights.
    fn model<B: Backend>(&self, device: &B::Device) -> Result<Llama4ForCausalLM<B>> {
        let Some(checkpoint) = &self.checkpoint else {
            let options = SyntheticOptions {
                seed: self.args.seed,
                dtype: Some(self.dtype),
                quantization: self.quantization,
                largest_tensor: self.target.largest_tensor(),
            };
            let started = Instant::now();
            let model = self.config.synthetic(&options, device, follow("making weights")).map_err(stopped)?;
            B::sync(device).map_err(|error| anyhow!("the device failed: {error:?}"))?;
            let bytes = self.config.memory(&MemoryOptions {
                dtype: self.dtype,
                stored: self.dtype,
                quantization: self.quantization,
                context: 1,
                batch: 1,
                piece: 1,
                max_page: None,
            });
            let (gigabytes, seconds) = (bytes.weights as f64 / 1e9, started.elapsed().as_secs_f64());
            output::say(format_args!("weights: {gigabytes:.2} GB made in {seconds:.1} s"));
            return Ok(model);
        };
        let options = LoadOptions {
            dtype: Some(self.dtype),
            quantization: self.quantization,
            largest_tensor: self.target.largest_tensor(),
            ..LoadOptions::default()
        };
        Ok(checkpoint.load(&options, device, follow("loading")).map_err(stopped)?.model)
    }

    /// Load the checkpoint again and again; the last model is kept.
    fn load<B: Backend>(&self, device: &B::Device, model: &mut Option<Llama4ForCausalLM<B>>) -> Result<Measured> {
        let bytes = self.checkpoint.as_ref().map(Checkpoint::survey).transpose()?.map_or(0, |report| report.bytes);
        let sample = self.budget.measure(
            model,
            |model| {
                *model = None;
                Ok(())
            },
            |model| {
                *model = Some(self.model::<B>(device)?);
                B::sync(device).map_err(|error| anyhow!("the device failed: {error:?}"))
            },
            || Ok(()),
        )?;
        let work = bytes as f64 / 1e9;
        Ok(Measured { sample, work, cost: None, rates: Rates::default(), name: Case::Load.to_string() })
    }

    fn operation<B: Backend>(&self, device: &B::Device, operation: Operation, tokens: usize) -> Result<Measured> {
        let shapes = Shapes::<B> {
            config: &self.config,
            dtype: self.dtype,
            quantization: self.quantization,
            device,
            largest_tensor: self.target.largest_tensor(),
        };
        let (sample, calls, cost) = operations::measure(&shapes, operation, tokens, self.budget)?;
        let name = format!("{} ({})", Case::Operation { operation, tokens }, shapes.words(operation));
        Ok(Measured { sample, work: calls as f64, cost: Some(cost), rates: Rates::default(), name })
    }

    /// A case of the whole model, with llama.cpp in alternation where it is asked for.
    fn on_model<B: Backend>(&self, model: &Llama4ForCausalLM<B>, case: &Case) -> Result<Measured> {
        let work = Work {
            config: &self.config,
            dtype: self.dtype,
            quantization: self.quantization,
            piece: self.target.backend.prefill_piece(),
        };
        let mut rates = Rates::default();
        let after = || match self.peer.as_ref().filter(|peer| peer.lacks(case).is_none()) {
            Some(peer) => peer.repeat(case, &mut rates),
            None => Ok(()),
        };
        let (sample, cost, tokens) = match *case {
            Case::Prefill { tokens } => {
                (model_cases::prefill(model, tokens, self.budget, after)?, work.prefill(tokens), tokens)
            }
            Case::Decode { sequences, depth, tokens } => (
                model_cases::decode(model, [sequences, depth, tokens], self.budget, after)?,
                work.decode(sequences, depth, tokens),
                sequences * tokens,
            ),
            Case::Load | Case::Operation { .. } => unreachable!("a case of its own"),
        };
        Ok(Measured { sample, work: tokens as f64, cost: Some(cost), rates, name: case.to_string() })
    }

    fn record(&self, case: &Case, measured: Measured, limits: &Limits, host_peak: Option<u64>) -> Record {
        let Measured { sample, work, cost, rates, name } = measured;
        let device_peak = self.target.device_memory();
        let rate = |share: f64| work / sample.quantile(share);
        let median = sample.quantile(0.5);
        Record {
            schema: SCHEMA,
            date: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
            commit: self.commit.clone(),
            machine: self.machine.clone(),
            backend: self.target.backend.name().to_owned(),
            model: self.model.clone(),
            name,
            case: *case,
            unit: case.unit().to_owned(),
            median: rate(0.5),
            p10: rate(0.9),
            p90: rate(0.1),
            work,
            share: cost.map(|cost| Share {
                read: cost.bytes / median / limits.read_bytes_per_second,
                compute: cost.operations / median / limits.operations_per_second,
            }),
            // What another program takes of a device is not known.
            peer: rates.beside(rate(0.5), host_peak.filter(|_| device_peak.is_none())),
            cost,
            warm_up_seconds: sample.warm_up,
            seconds: sample.seconds,
            limits: limits.clone(),
            memory: Memory { host_peak, device_peak },
        }
    }
}

/// Shows progress, and has the work stopped by Ctrl-C.
fn follow(what: &str) -> impl FnMut(LoadProgress<'_>) -> ControlFlow<()> {
    move |progress| {
        let gigabytes = |bytes: u64| bytes as f64 / 1e9;
        let (done, total) = (gigabytes(progress.bytes_done), gigabytes(progress.bytes_total));
        output::progress(format_args!("{what}: {done:.1} of {total:.1} GB"));
        if interrupt::pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// An error of the library; that Ctrl-C was pressed is none.
fn stopped(error: ImportError) -> anyhow::Error {
    match error {
        ImportError::Cancelled { .. } => Stopped.into(),
        error => error.into(),
    }
}
