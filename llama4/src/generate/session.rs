use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};

use super::sequence::{Outcome, Sequence};
use super::{Event, FinishReason, Generation, GreedySteps, Request, Sampled, Timings};
use crate::Llama4ForCausalLM;
use crate::cache::KvCache;
use crate::error::{CacheError, GenerateError};
use crate::nn::{ForwardOptions, TokenBatch};
use crate::ops;
use crate::text::Tokenizer;

/// Prompt tokens that go through the model at once, unless set otherwise: [`ops::rows_at_once`]. Between pieces a callback can stop the run.
pub fn prefill_piece<B: Backend>() -> usize {
    ops::rows_at_once::<B>()
}

/// A model with its memory: generates continuations, several at once.
///
/// Requests beyond the number of rows wait until a row is free. What a row holds is kept when its request ends, and a later request that begins with the same
/// tokens does not compute them again.
#[derive(Debug)]
pub struct Session<'a, B: Backend> {
    model: &'a Llama4ForCausalLM<B>,
    tokenizer: Option<&'a Tokenizer>,
    cache: KvCache<B>,
    /// Tokens in each row of the cache.
    held: Vec<Vec<u32>>,
    steps: GreedySteps<B>,
    prefill_piece: usize,
}

/// A request in its row.
struct Active {
    request: usize,
    row: usize,
    sequence: Sequence,
    timings: Timings,
}

impl<'a, B: Backend> Session<'a, B> {
    /// A session with room for `rows` sequences of up to `context` tokens, prompt included.
    pub fn new(model: &'a Llama4ForCausalLM<B>, rows: usize, context: usize) -> Self {
        Self {
            model,
            tokenizer: None,
            cache: model.new_cache(rows, context),
            held: vec![Vec::new(); rows],
            steps: GreedySteps::new(),
            prefill_piece: prefill_piece::<B>(),
        }
    }

    /// Decode text, and look for stop strings in it.
    pub fn with_tokenizer(mut self, tokenizer: &'a Tokenizer) -> Self {
        self.tokenizer = Some(tokenizer);
        self
    }

    /// Process at most `tokens` of prompts at once.
    pub fn with_prefill_piece(mut self, tokens: usize) -> Self {
        self.prefill_piece = tokens.max(1);
        self
    }

    /// The cache.
    pub fn cache(&self) -> &KvCache<B> {
        &self.cache
    }

    /// Forget all sequences.
    pub fn reset(&mut self) {
        self.steps = GreedySteps::new();
        self.cache.reset();
        self.held.iter_mut().for_each(Vec::clear);
    }

    /// Continue one prompt.
    ///
    /// # Errors
    /// As [`Session::generate_all`].
    pub fn generate(
        &mut self,
        request: &Request,
        on_event: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Generation, GenerateError> {
        let mut generations = self.generate_all(std::slice::from_ref(request), on_event)?;
        Ok(generations.remove(0))
    }

    /// Continue several prompts; the result has one entry a request, in their order.
    ///
    /// `on_event` is called for every piece of a prompt and every token. When it breaks, all requests end as
    /// [`FinishReason::Cancelled`] with what they have.
    ///
    /// # Errors
    /// For a prompt that is empty, longer than the context or has a token the model does not know, and for settings out of range, before
    /// anything is computed; for logits that nothing can be chosen from.
    pub fn generate_all(
        &mut self,
        requests: &[Request],
        mut on_event: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Generation>, GenerateError> {
        let mut waiting = requests
            .iter()
            .enumerate()
            .map(|(index, request)| Ok((index, self.sequence(index, request)?)))
            .collect::<Result<VecDeque<_>, GenerateError>>()?;
        let mut done: Vec<Option<Generation>> = requests.iter().map(|_| None).collect();
        let mut flow = ControlFlow::Continue(());
        for _ in 0..waiting.len() {
            let Some((request, sequence)) = waiting.pop_front() else { break };
            match sequence.ends_at_once() {
                Some(reason) => {
                    done[request] = Some(end(request, sequence, reason, Timings::default(), &mut flow, &mut on_event))
                }
                None => waiting.push_back((request, sequence)),
            }
        }
        let mut active: Vec<Active> = Vec::new();

        while !(waiting.is_empty() && active.is_empty()) {
            if flow.is_break() {
                let begun = active.drain(..).map(|each| (each.request, each.sequence, each.timings));
                let not_begun = waiting.drain(..).map(|(request, sequence)| (request, sequence, Timings::default()));
                for (request, sequence, timings) in begun.chain(not_begun) {
                    let reason = FinishReason::Cancelled;
                    done[request] = Some(end(request, sequence, reason, timings, &mut flow, &mut on_event));
                }
                break;
            }
            let admitted = self.admit(&mut waiting, &active);
            let (fresh, tokens) = if admitted.is_empty() {
                let tokens = self.decode(&mut active)?;
                (std::mem::take(&mut active), tokens)
            } else {
                self.prefill(admitted, &mut on_event, &mut flow)?
            };
            for (mut each, token) in fresh.into_iter().zip(tokens) {
                let request = each.request;
                let room = self.held[each.row].len() < self.cache.capacity();
                match token.map(|token| each.sequence.push(token, room)).transpose()? {
                    // Stopped before its first token.
                    None => active.push(each),
                    Some((text, outcome)) => {
                        if let Some(token) = each.sequence.last() {
                            let event = Event::Token { request, token, text: &text };
                            flow = merge(flow, on_event(event));
                        }
                        match outcome {
                            Outcome::Goes => active.push(each),
                            Outcome::Ends(reason) => {
                                let Active { sequence, timings, .. } = each;
                                done[request] = Some(end(request, sequence, reason, timings, &mut flow, &mut on_event));
                            }
                        }
                    }
                }
            }
        }
        self.steps.cancel(&mut self.cache)?;
        Ok(done.into_iter().flatten().collect())
    }

    /// Check a request and make its state.
    fn sequence(&self, index: usize, request: &Request) -> Result<Sequence, GenerateError> {
        let (length, context) = (request.prompt.len(), self.cache.capacity());
        if length == 0 {
            return Err(GenerateError::EmptyPrompt { request: index });
        }
        if length > context {
            return Err(GenerateError::PromptTooLong { request: index, length, context });
        }
        let vocab = self.model.config().vocab_size;
        if let Some(&id) = request.prompt.iter().find(|&&id| id as usize >= vocab) {
            return Err(GenerateError::NoLogit { place: "the prompt", id, vocab });
        }
        Sequence::new(index, request, self.tokenizer)
    }

    /// Give waiting requests the free rows, each the row that holds most of its prompt.
    fn admit(&self, waiting: &mut VecDeque<(usize, Sequence)>, active: &[Active]) -> Vec<Active> {
        let mut free: Vec<usize> =
            (0..self.cache.rows()).filter(|row| active.iter().all(|each| each.row != *row)).collect();
        let mut admitted = Vec::new();
        while let Some((request, sequence)) = if free.is_empty() { None } else { waiting.pop_front() } {
            // Of rows that hold nothing of use, the first.
            let best = (0..free.len())
                .max_by_key(|&index| (common_prefix(&self.held[free[index]], sequence.prompt()), usize::MAX - index))
                .unwrap_or(0);
            let row = free.remove(best);
            admitted.push(Active { request, row, sequence, timings: Timings::default() });
        }
        admitted
    }

    /// Process the prompts of new requests, in pieces; the first token of each, unless stopped on the way.
    #[allow(clippy::type_complexity)]
    fn prefill(
        &mut self,
        mut fresh: Vec<Active>,
        on_event: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
        flow: &mut ControlFlow<()>,
    ) -> Result<(Vec<Active>, Vec<Option<Sampled>>), GenerateError> {
        let start = Instant::now();
        // A step of a sequence that has ended, in the place of a new one perhaps.
        self.steps.cancel(&mut self.cache)?;
        for each in &mut fresh {
            let cached = self.reuse_prefix(each.row, each.sequence.prompt())?;
            each.timings.cached_tokens = cached;
            each.timings.prefill_tokens = each.sequence.prompt().len() - cached;
        }
        let mut tokens: Vec<Option<Sampled>> = fresh.iter().map(|_| None).collect();
        // What the last piece ends with. A device is never given more than one piece ahead: progress that is told is that of the work, but for a piece.
        let mut under_way: Option<Tensor<B, 2, Int>> = None;
        while flow.is_continue() && tokens.iter().any(Option::is_none) {
            let mut room = self.prefill_piece;
            let mut piece = Vec::new();
            for (index, each) in fresh.iter().enumerate().filter(|(index, _)| tokens[*index].is_none()) {
                let prompt = each.sequence.prompt();
                let begin = self.held[each.row].len();
                let end = prompt.len().min(begin + room);
                room -= end - begin;
                if end > begin {
                    piece.push((index, each.row, prompt[begin..end].to_vec()));
                }
            }
            let mut forward = || self.forward(piece.iter().map(|(_, row, ids)| (*row, ids.clone())).collect());
            let logits = match under_way.take() {
                Some(last) => crate::ops::read_ids_during(&last, forward).1?,
                None => forward()?,
            };
            let mut complete = Vec::new();
            for (place, (index, row, _)) in piece.iter().enumerate() {
                let each = &fresh[*index];
                let (done, total) = (self.held[*row].len(), each.sequence.prompt().len());
                *flow = merge(*flow, on_event(Event::Prefill { request: each.request, done, total }));
                if done == total {
                    complete.push((place, *index));
                }
            }
            let places: Vec<usize> = complete.iter().map(|(place, _)| *place).collect();
            let mut chosen: Vec<&mut Sequence> = Vec::new();
            for (index, each) in fresh.iter_mut().enumerate() {
                if complete.iter().any(|(_, complete)| *complete == index) {
                    chosen.push(&mut each.sequence);
                }
            }
            for ((_, index), token) in complete.iter().zip(choose(&logits, &places, &mut chosen)?) {
                tokens[*index] = Some(token);
                fresh[*index].timings.prefill = start.elapsed();
            }
            under_way = tokens.iter().any(Option::is_none).then(|| crate::ops::argmax(logits));
        }
        Ok((fresh, tokens))
    }

    /// One decode step of all active sequences.
    fn decode(&mut self, active: &mut [Active]) -> Result<Vec<Option<Sampled>>, GenerateError> {
        let start = Instant::now();
        let last = active.iter().filter_map(|each| Some((each.row, each.sequence.last()?.id))).collect::<Vec<_>>();
        let tokens = if active.iter().any(|each| each.sequence.needs_logits()) {
            let logits = self.forward(last.iter().map(|&(row, id)| (row, vec![id])).collect())?;
            let places: Vec<usize> = (0..active.len()).collect();
            let mut sequences: Vec<&mut Sequence> = active.iter_mut().map(|each| &mut each.sequence).collect();
            choose(&logits, &places, &mut sequences)?
        } else {
            let room = |row: usize| self.held[row].len() + 1 < self.cache.capacity();
            let again = active.iter().all(|each| room(each.row) && each.sequence.goes_beyond_next());
            let ids = self.steps.step(self.model, &mut self.cache, &last, again)?;
            last.iter().for_each(|&(row, id)| self.held[row].push(id));
            ids.into_iter().map(Sampled::unranked).collect()
        };
        let time: Duration = start.elapsed();
        for each in active {
            each.timings.decode += time;
            each.timings.decode_tokens += 1;
        }
        Ok(tokens.into_iter().map(Some).collect())
    }

    /// Run the model on new tokens of some rows; logits of their last tokens, `[rows given, vocab]`.
    fn forward(&mut self, batch: Vec<(usize, Vec<u32>)>) -> Result<Tensor<B, 2>, GenerateError> {
        let tokens = TokenBatch::new(&batch, &self.model.device());
        let output = self.model.forward(&tokens, &mut self.cache, &ForwardOptions::default())?;
        for (row, ids) in batch {
            self.held[row].extend(ids);
        }
        Ok(output.last_logits)
    }

    /// Cut a row to what it has in common with `prompt`, short of its last token, which has to be computed for its logits.
    fn reuse_prefix(&mut self, row: usize, prompt: &[u32]) -> Result<usize, GenerateError> {
        let mut keep = common_prefix(&self.held[row], prompt).min(prompt.len() - 1);
        match self.cache.truncate(row, keep) {
            Err(CacheError::Evicted { resume_at, .. }) => {
                keep = resume_at;
                self.cache.truncate(row, keep)?;
            }
            result => result?,
        }
        self.held[row].truncate(keep);
        Ok(keep)
    }
}

/// Choose the next token of each sequence from row `places[i]` of the logits.
///
/// Where every choice is plain greedy it is made on the device, and only ids are read back.
fn choose<B: Backend>(
    logits: &Tensor<B, 2>,
    places: &[usize],
    sequences: &mut [&mut Sequence],
) -> Result<Vec<Sampled>, GenerateError> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    if sequences.iter().all(|sequence| !sequence.needs_logits()) {
        let ids: Vec<u32> = crate::ops::argmax(logits.clone()).into_data().iter::<u32>().collect();
        return Ok(places.iter().map(|&place| Sampled::unranked(ids[place])).collect());
    }
    let vocab = logits.dims()[1];
    // Not one by one: there are 202,048 of Llama 4.
    let mut host = logits.to_data().into_vec::<f32>().unwrap_or_else(|_| unreachable!("logits are f32"));
    places
        .iter()
        .zip(sequences)
        .map(|(&place, sequence)| sequence.sample(&mut host[place * vocab..(place + 1) * vocab]))
        .collect()
}

/// End a sequence and say so.
fn end(
    request: usize,
    sequence: Sequence,
    reason: FinishReason,
    timings: Timings,
    flow: &mut ControlFlow<()>,
    on_event: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
) -> Generation {
    let (generation, text) = sequence.finish(reason, timings);
    *flow = merge(*flow, on_event(Event::Finished { request, text: &text, generation: &generation }));
    generation
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Once broken, always broken.
fn merge(flow: ControlFlow<()>, next: ControlFlow<()>) -> ControlFlow<()> {
    if flow.is_break() { flow } else { next }
}
