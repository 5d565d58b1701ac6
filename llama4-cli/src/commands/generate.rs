use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::Result;
use burn::tensor::backend::Backend;
use llama4::generate::{Event, FinishReason, Generation, Request, SamplingParams, Session, StopConditions};
use llama4::text::{ChatMessage, Tokenizer};
use llama4_backends::{Target, Task};
use serde_json::{Value, json};

use super::sampling::{statistics, with_seed};
use crate::args::{GenerateArgs, PromptArgs};
use crate::exit::{Outcome, usage};
use crate::interrupt::Watch;
use crate::model::{DEMO_PROMPT, Model, Run};
use crate::output::Output;
use crate::prompt;
use crate::stream::InOrder;

pub(super) fn run(args: GenerateArgs, output: &Output) -> Result<Outcome> {
    let model = Model::open(&args.model)?;
    let needs_text = args.prompt.tokens.is_empty() || !args.length.stop_strings.is_empty();
    let tokenizer = if needs_text { Some(model.tokenizer()?) } else { model.tokenizer_if_any()? };
    let prompts = prompts(&args.prompt, &model, tokenizer.as_ref(), output)?;
    let sampling = with_seed(args.sampling.over(model.sampling()), args.output.logprobs);
    sampling.validate().map_err(|error| usage(error.to_string()))?;
    check_ids(&prompts, &sampling, &model)?;

    let stop = StopConditions {
        end_ids: model.end_ids(tokenizer.as_ref()),
        stop_strings: args.length.stop_strings.clone(),
        max_new_tokens: Some(args.length.max_new_tokens),
        ignore_eos: args.length.ignore_eos,
    };
    stop.filter().map_err(|error| usage(error.to_string()))?;
    let longest = prompts.iter().map(|prompt| prompt.ids.len()).max().unwrap_or(0);
    let context = model.context(args.length.context, longest.saturating_add(args.length.max_new_tokens))?;
    if let Some(prompt) = prompts.iter().find(|prompt| prompt.ids.len() > context) {
        let (tokens, label) = (prompt.ids.len(), &prompt.label);
        return Err(usage(format!("the prompt `{label}` has {tokens} tokens, the context has room for {context}")));
    }
    let requests = prompts
        .iter()
        .map(|prompt| Request { prompt: prompt.ids.clone(), sampling: sampling.clone(), stop: stop.clone() })
        .collect();
    let target = args.backend.target()?;
    target.run(Generate { args, target, model, tokenizer, prompts, requests, context, output })
}

/// A prompt as the model gets it, and as messages name it.
struct Prompt {
    label: String,
    ids: Vec<u32>,
}

fn prompts(args: &PromptArgs, model: &Model, tokenizer: Option<&Tokenizer>, output: &Output) -> Result<Vec<Prompt>> {
    if !args.tokens.is_empty() {
        let prompt = |ids: &[u32]| {
            let text: Vec<String> = ids.iter().map(u32::to_string).collect();
            Prompt { label: prompt::label(&text.join(",")), ids: ids.to_vec() }
        };
        return Ok(args.tokens.iter().map(|ids| prompt(&ids.0)).collect());
    }
    let texts = match (args.prompts.as_slice(), model.is_demo()) {
        ([], false) => {
            return Err(usage(format!(
                "no prompt for {}: give --prompt TEXT (`-` for stdin, `@FILE` for a file) or --tokens IDS",
                model.name()
            )));
        }
        ([], true) => {
            output.note(format_args!("the demo model goes on with: {DEMO_PROMPT}"));
            vec![DEMO_PROMPT.to_owned()]
        }
        (given, _) if given.iter().filter(|text| *text == "-").count() > 1 => {
            return Err(usage("stdin can be one prompt only, but `--prompt -` is given more than once"));
        }
        (given, _) => given.iter().map(|text| prompt::resolve(text)).collect::<Result<_>>()?,
    };
    let Some(tokenizer) = tokenizer else { return Err(usage("text needs a tokenizer")) };
    let template = if args.chat { Some(model.chat_template()?) } else { None };
    let encode = |text: String| {
        let label = prompt::label(&text);
        let ids = match &template {
            Some(template) => {
                let system = args.system.as_ref().map(ChatMessage::system);
                let messages: Vec<ChatMessage> = system.into_iter().chain([ChatMessage::user(text)]).collect();
                tokenizer.encode_chat(template, &messages, true)?
            }
            None => tokenizer.encode(&text, true)?,
        };
        match ids.is_empty() {
            true => Err(usage(
                "a prompt is empty, and the tokenizer puts nothing in front of it: there is nothing to continue",
            )),
            false => Ok(Prompt { label, ids }),
        }
    };
    texts.into_iter().map(encode).collect()
}

/// Ids that the model does not have are wrong usage, and found before the weights are loaded.
fn check_ids(prompts: &[Prompt], sampling: &SamplingParams, model: &Model) -> Result<()> {
    let vocab = model.config().vocab_size;
    let given = prompts.iter().flat_map(|prompt| prompt.ids.iter().map(|id| (*id, "a prompt")));
    let biased = sampling.logit_bias.keys().map(|id| (*id, "--logit-bias"));
    match given.chain(biased).find(|(id, _)| *id as usize >= vocab) {
        None => Ok(()),
        Some((id, place)) => {
            Err(usage(format!("{place} has token {id}, but {} has {vocab} tokens (0 to {})", model.name(), vocab - 1)))
        }
    }
}

struct Generate<'a> {
    args: GenerateArgs,
    target: Target,
    model: Model,
    tokenizer: Option<Tokenizer>,
    prompts: Vec<Prompt>,
    requests: Vec<Request>,
    context: usize,
    output: &'a Output,
}

impl Task for Generate<'_> {
    type Output = Outcome;

    fn run<B: Backend>(self, device: &B::Device) -> Result<Outcome> {
        let watch = Watch::begin();
        let rows = self.requests.len().min(self.args.output.parallel);
        let run = Run { weights: self.args.weights.clone(), target: self.target, context: self.context, batch: rows };
        let model = self.model.load::<B>(run, device, &watch, self.output)?;
        let mut session = Session::new(&model, rows, self.context);
        if let Some(tokenizer) = &self.tokenizer {
            session = session.with_tokenizer(tokenizer);
        }
        let start = Instant::now();
        let mut printer = Printer::new(&self);
        let mut failed = printer.begin().err();
        let generations = session.generate_all(&self.requests, |event| {
            if failed.is_none() {
                failed = printer.event(&event).err();
            }
            match failed.is_some() || watch.pressed() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        self.output.note(summary(&self.requests, &generations, start));
        let cancelled = generations.iter().any(|each| each.finish_reason == FinishReason::Cancelled);
        Ok(if cancelled { Outcome::Interrupted } else { Outcome::Done })
    }
}

/// Writes results in the order of the prompts.
struct Printer<'a> {
    order: InOrder,
    form: Form,
    requests: &'a [Request],
    output: &'a Output,
}

/// What is written of a result.
enum Form {
    /// One line, once it is complete.
    Json,
    /// The text, as it comes.
    Text,
    /// The ids, as they come, where there is no tokenizer.
    Ids {
        /// How many are written, for each prompt.
        written: Vec<usize>,
    },
}

impl<'a> Printer<'a> {
    fn new(task: &'a Generate<'_>) -> Self {
        let (order, form) = match (task.args.output.json, &task.tokenizer) {
            (true, _) => (InOrder::lines(task.prompts.len()), Form::Json),
            (false, tokenizer) => {
                let order = InOrder::texts(task.prompts.iter().map(|prompt| prompt.label.clone()));
                let ids = Form::Ids { written: vec![0; task.prompts.len()] };
                (order, if tokenizer.is_some() { Form::Text } else { ids })
            }
        };
        Self { order, form, requests: &task.requests, output: task.output }
    }

    fn begin(&self) -> Result<()> {
        self.output.write(&self.order.begin())
    }

    fn event(&mut self, event: &Event<'_>) -> Result<()> {
        let ready = match (event, &mut self.form) {
            (Event::Prefill { .. }, _) | (Event::Token { .. }, Form::Json) => String::new(),
            (Event::Token { request, text, .. }, Form::Text) => self.order.push(*request, text),
            (Event::Token { request, token, .. }, Form::Ids { written }) => {
                let comma = if written[*request] == 0 { "" } else { "," };
                written[*request] += 1;
                self.order.push(*request, &format!("{comma}{}", token.id))
            }
            (Event::Finished { request, generation, .. }, Form::Json) => {
                let line = serde_json::to_string(&line(&self.requests[*request], generation))?;
                self.order.push(*request, &line) + &self.order.finish(*request)
            }
            (Event::Finished { request, text, .. }, _) => {
                self.order.push(*request, text) + &self.order.finish(*request)
            }
        };
        self.output.write(&ready)
    }
}

/// The JSON form of a result.
fn line(request: &Request, generation: &Generation) -> Value {
    let mut line = json!({
        "prompt_tokens": request.prompt.len(),
        "tokens": generation.ids(),
        "text": generation.text,
        "finish_reason": generation.finish_reason,
        "timings": generation.timings,
    });
    if let (Some(_), Some(map)) = (request.sampling.logprobs, line.as_object_mut()) {
        let tokens = generation.tokens.iter();
        let entries = tokens.map(|token| json!({ "id": token.id, "logprob": token.logprob, "top": token.top }));
        map.insert("logprobs".to_owned(), entries.collect());
    }
    line
}

/// What is said when it is done.
fn summary(requests: &[Request], generations: &[Generation], start: Instant) -> String {
    let seed = match requests.first() {
        Some(Request { sampling, .. }) if !sampling.is_greedy() => {
            sampling.seed.map(|seed| format!("; seed {seed}")).unwrap_or_default()
        }
        _ => String::new(),
    };
    if let [generation] = generations {
        let text = statistics(&generation.timings);
        return format!("{text}; {}{seed}", generation.finish_reason);
    }
    let seconds = start.elapsed().as_secs_f64();
    let prompt: usize = requests.iter().map(|request| request.prompt.len()).sum();
    let tokens: usize = generations.iter().map(|generation| generation.tokens.len()).sum();
    format!(
        "{} prompts of {prompt} tokens together, {tokens} tokens generated in {seconds:.2} s ({:.1}/s){seed}",
        generations.len(),
        tokens as f64 / seconds
    )
}
