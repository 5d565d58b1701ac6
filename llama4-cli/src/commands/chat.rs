use std::ops::ControlFlow;

use anyhow::Result;
use burn::tensor::backend::Backend;
use llama4::generate::{Event, FinishReason, Request, SamplingParams, Session, StopConditions};
use llama4::text::{ChatTemplate, Tokenizer};
use llama4_backends::Task;

use super::sampling::{statistics, with_seed};
use crate::args::ChatArgs;
use crate::conversation::{Conversation, HELP, Line};
use crate::exit::{Outcome, usage};
use crate::interrupt::Watch;
use crate::lines::{Lines, Typed};
use crate::model::{Model, Run};
use crate::output::Output;

/// Room for a conversation where the model has more: a real model's millions would take all memory.
const CONTEXT: usize = 8192;

pub(super) fn run(args: ChatArgs, output: &Output) -> Result<Outcome> {
    let model = Model::open(&args.model)?;
    let tokenizer = model.tokenizer()?;
    let template = model.chat_template()?;
    let sampling = with_seed(args.sampling.over(model.sampling()), None);
    sampling.validate().map_err(|error| usage(error.to_string()))?;
    let context = model.context(args.context, CONTEXT)?;
    let stop = StopConditions {
        end_ids: model.end_ids(Some(&tokenizer)),
        max_new_tokens: Some(args.max_new_tokens),
        ..StopConditions::default()
    };
    let conversation = Conversation::new(args.system);
    let lines = Lines::open()?;
    let target = args.backend.target()?;
    let run = Run { weights: args.weights.clone(), target, context, batch: 1 };
    let chat = Chat { model, tokenizer, template, sampling, stop, context, run, conversation, lines, output };
    target.run(chat)
}

struct Chat<'a> {
    model: Model,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    sampling: SamplingParams,
    stop: StopConditions,
    context: usize,
    run: Run,
    conversation: Conversation,
    lines: Lines,
    output: &'a Output,
}

impl Task for Chat<'_> {
    type Output = Outcome;

    fn run<B: Backend>(mut self, device: &B::Device) -> Result<Outcome> {
        let model = self.model.load::<B>(self.run.clone(), device, &Watch::begin(), self.output)?;
        // Clones share the vocabulary.
        let tokenizer = self.tokenizer.clone();
        let mut session = Session::new(&model, 1, self.context).with_tokenizer(&tokenizer);
        if self.lines.is_terminal() {
            self.output.note(format_args!(
                "{}, {} tokens of context; /help lists commands",
                self.model.name(),
                self.context
            ));
            if self.model.is_demo() {
                self.output
                    .note("the demo model was never taught to chat: expect it to go on with the text, not to answer");
            }
        }
        loop {
            let line = match self.lines.next()? {
                Typed::Line(line) => line,
                Typed::Discarded => {
                    self.output.note("Ctrl-D or /quit leaves");
                    continue;
                }
                Typed::End => return Ok(Outcome::Done),
            };
            match Line::parse(&line) {
                Line::Nothing => {}
                Line::Message(message) => self.turn(message, &mut session)?,
                Line::Reset => {
                    self.conversation.reset();
                    self.output.note("a new conversation");
                }
                Line::System(text) => {
                    self.conversation = Conversation::new(text.map(str::to_owned));
                    let what = if text.is_some() { "new instructions" } else { "no instructions" };
                    self.output.note(format_args!("a new conversation, {what}"));
                }
                Line::Help => self.output.answer(HELP),
                Line::Quit => return Ok(Outcome::Done),
                Line::Unknown(command) => {
                    self.output.warn(format_args!("there is no command {command}; /help lists them"));
                }
            }
        }
    }
}

impl Chat<'_> {
    /// One message and its answer. What the cache holds of the conversation so far is not computed again.
    fn turn<B: Backend>(&mut self, message: &str, session: &mut Session<'_, B>) -> Result<()> {
        self.conversation.ask(message);
        let prompt = match self.tokenizer.encode_chat(&self.template, self.conversation.messages(), true) {
            Ok(prompt) => prompt,
            Err(error) => {
                self.conversation.take_back();
                self.output.warn(format_args!("the message is left out: {error}"));
                return Ok(());
            }
        };
        if prompt.len() > self.context {
            self.conversation.take_back();
            let (tokens, context) = (prompt.len(), self.context);
            self.output.warn(format_args!(
                "the context is full: with this message the conversation has {tokens} tokens, there is room for \
                 {context}; the message is left out. {}",
                self.way_on()
            ));
            return Ok(());
        }
        let request = Request { prompt, sampling: self.sampling.clone(), stop: self.stop.clone() };
        let watch = Watch::begin();
        let (mut failed, mut line_ended) = (None, false);
        let generation = session.generate(&request, |event| {
            if let Event::Token { text, .. } | Event::Finished { text, .. } = event {
                if !text.is_empty() {
                    line_ended = text.ends_with('\n');
                }
                failed = failed.take().or(self.output.write(text).err());
            }
            match failed.is_some() || watch.pressed() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        drop(watch);
        if let Some(error) = failed {
            return Err(error);
        }
        if !line_ended {
            self.output.line("")?;
        }
        self.conversation.answer(generation.text.unwrap_or_default());
        self.output.note(format_args!("[{}]", statistics(&generation.timings)));
        match generation.finish_reason {
            FinishReason::ContextFull => {
                let context = self.context;
                self.output.warn(format_args!("the context is full ({context} tokens). {}", self.way_on()));
            }
            FinishReason::MaxNewTokens => self.output.note("[cut off by --max-new-tokens]"),
            FinishReason::Cancelled => self.output.note("[stopped]"),
            FinishReason::EndToken(_) | FinishReason::StopString(_) => {}
        }
        Ok(())
    }

    /// What to do once the context is full.
    fn way_on(&self) -> String {
        let limit = self.model.config().max_position_embeddings;
        let longer = match self.context < limit {
            true => format!(", a start with --context up to {limit} has more room"),
            false => String::new(),
        };
        format!("/reset begins a new conversation{longer}")
    }
}
