use super::{FinishReason, Generation, History, Request, Sampled, Sampler, StopConditions, StopStrings, Timings};
use crate::error::GenerateError;
use crate::text::{StreamDecoder, Tokenizer};

/// One request while it is worked on: what was said so far, and what decides how it goes on.
#[derive(Debug)]
pub(super) struct Sequence {
    /// Prompt and generated tokens.
    ids: Vec<u32>,
    prompt_len: usize,
    sampler: Sampler,
    stop: StopConditions,
    filter: StopStrings,
    decoder: Option<StreamDecoder>,
    tokens: Vec<Sampled>,
    text: String,
}

/// Whether a sequence goes on after a token.
#[derive(Debug)]
pub(super) enum Outcome {
    Goes,
    Ends(FinishReason),
}

impl Sequence {
    /// # Errors
    /// For settings out of range, or stop strings without a tokenizer to find them with.
    pub(super) fn new(index: usize, request: &Request, tokenizer: Option<&Tokenizer>) -> Result<Self, GenerateError> {
        if tokenizer.is_none() && !request.stop.stop_strings.is_empty() {
            return Err(GenerateError::StopStringsNeedText);
        }
        Ok(Self {
            ids: request.prompt.clone(),
            prompt_len: request.prompt.len(),
            sampler: Sampler::for_sequence(request.sampling.clone(), index)?,
            filter: request.stop.filter()?,
            stop: request.stop.clone(),
            decoder: tokenizer.map(|tokenizer| tokenizer.stream(true)),
            tokens: Vec::new(),
            text: String::new(),
        })
    }

    pub(super) fn prompt(&self) -> &[u32] {
        &self.ids[..self.prompt_len]
    }

    /// The token generated last.
    pub(super) fn last(&self) -> Option<&Sampled> {
        self.tokens.last()
    }

    /// Why nothing is to be generated at all, if so.
    pub(super) fn ends_at_once(&self) -> Option<FinishReason> {
        self.stop.is_limit(0).then_some(FinishReason::MaxNewTokens)
    }

    /// Whether a token may follow the next one.
    pub(super) fn goes_beyond_next(&self) -> bool {
        !self.stop.is_limit(self.tokens.len() + 1)
    }

    pub(super) fn needs_logits(&self) -> bool {
        self.sampler.needs_logits()
    }

    pub(super) fn sample(&mut self, logits: &mut [f32]) -> Result<Sampled, GenerateError> {
        self.sampler.sample(logits, History::new(&self.ids, self.prompt_len))
    }

    /// Take the chosen token; the text that can be shown now, and whether the sequence goes on. `room` says whether the context has
    /// room for this token.
    pub(super) fn push(&mut self, token: Sampled, room: bool) -> Result<(String, Outcome), GenerateError> {
        let id = token.id;
        self.ids.push(id);
        self.tokens.push(token);
        if self.stop.is_end(id) {
            return Ok((String::new(), Outcome::Ends(FinishReason::EndToken(id))));
        }
        let mut shown = String::new();
        if let Some(decoder) = &mut self.decoder {
            let output = self.filter.push(&decoder.push(id)?.unwrap_or_default());
            self.text.push_str(&output.text);
            shown = output.text;
            if let Some(stop) = output.stopped {
                return Ok((shown, Outcome::Ends(FinishReason::StopString(stop))));
            }
        }
        let outcome = if self.stop.is_limit(self.tokens.len()) {
            Outcome::Ends(FinishReason::MaxNewTokens)
        } else if !room {
            Outcome::Ends(FinishReason::ContextFull)
        } else {
            Outcome::Goes
        };
        Ok((shown, outcome))
    }

    /// End the sequence; also the text that was still held back.
    pub(super) fn finish(mut self, reason: FinishReason, timings: Timings) -> (Generation, String) {
        let mut rest = String::new();
        if let Some(decoder) = &mut self.decoder
            && !matches!(reason, FinishReason::StopString(_))
        {
            let tail = self.filter.push(&decoder.finish().unwrap_or_default());
            rest = tail.text + &self.filter.finish();
            self.text.push_str(&rest);
        }
        let text = self.decoder.is_some().then_some(self.text);
        (Generation { tokens: self.tokens, text, finish_reason: reason, timings }, rest)
    }
}
