use std::collections::BTreeMap;

use super::{History, SamplingParams};
use crate::error::GenerateError;

/// Logit bias and penalties, written into the logits and taken back afterwards.
///
/// Only the tokens concerned are touched, and the buffers are kept from token to token.
#[derive(Debug, Clone, Default)]
pub(super) struct Edits {
    /// Every logit overwritten, in order, as it was.
    before: Vec<(u32, f32)>,
    /// For each token of the vocabulary: 0, or 1 + how often it was generated, if it is in the history.
    seen: Vec<u32>,
    /// The tokens with an entry in `seen`, in order of appearance.
    distinct: Vec<u32>,
}

impl Edits {
    /// Adds the bias, then applies the repetition penalty, then frequency and presence penalty.
    ///
    /// # Errors
    /// [`GenerateError::NoLogit`] for an id beyond the vocabulary; the logits are then as they were.
    pub(super) fn apply(
        &mut self,
        logits: &mut [f32],
        history: History<'_>,
        params: &SamplingParams,
    ) -> Result<(), GenerateError> {
        self.before.clear();
        self.bias(logits, &params.logit_bias)?;
        if params.penalizes() {
            let history = history.last(params.penalty_last_n);
            if let Err(error) = self.penalize(logits, history, params) {
                self.undo(logits);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Puts every logit back.
    pub(super) fn undo(&mut self, logits: &mut [f32]) {
        // Backwards: a token with bias and penalty has two entries, the first is the original.
        for (id, logit) in self.before.drain(..).rev() {
            logits[id as usize] = logit;
        }
    }

    fn bias(&mut self, logits: &mut [f32], bias: &BTreeMap<u32, f32>) -> Result<(), GenerateError> {
        if let Some((&id, _)) = bias.last_key_value() {
            in_vocabulary(id, logits, "the logit bias")?;
        }
        for (&id, bias) in bias {
            self.edit(logits, id, |logit| logit + bias);
        }
        Ok(())
    }

    fn penalize(
        &mut self,
        logits: &mut [f32],
        history: History<'_>,
        params: &SamplingParams,
    ) -> Result<(), GenerateError> {
        for &id in history.prompt.iter().chain(history.generated) {
            in_vocabulary(id, logits, "the history")?;
        }
        self.count(history, logits.len());
        let distinct = std::mem::take(&mut self.distinct);
        for &id in &distinct {
            let generated = std::mem::take(&mut self.seen[id as usize]) - 1;
            self.edit(logits, id, |logit| {
                let repeated =
                    if logit > 0.0 { logit / params.repetition_penalty } else { logit * params.repetition_penalty };
                let present = if generated > 0 { params.presence_penalty } else { 0.0 };
                repeated - generated as f32 * params.frequency_penalty - present
            });
        }
        self.distinct = distinct;
        Ok(())
    }

    fn count(&mut self, history: History<'_>, vocab: usize) {
        self.seen.resize(vocab, 0);
        self.distinct.clear();
        let counted = history.prompt.iter().map(|&id| (id, 0)).chain(history.generated.iter().map(|&id| (id, 1)));
        for (id, times) in counted {
            let seen = &mut self.seen[id as usize];
            if *seen == 0 {
                *seen = 1;
                self.distinct.push(id);
            }
            *seen += times;
        }
    }

    fn edit(&mut self, logits: &mut [f32], id: u32, new: impl Fn(f32) -> f32) {
        let logit = &mut logits[id as usize];
        self.before.push((id, *logit));
        *logit = new(*logit);
    }
}

fn in_vocabulary(id: u32, logits: &[f32], place: &'static str) -> Result<(), GenerateError> {
    let vocab = logits.len();
    if (id as usize) < vocab {
        return Ok(());
    }
    Err(GenerateError::NoLogit { place, id, vocab })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [2.0, -2.0, 0.0, 1.0, -1.0];

    fn edited(history: History<'_>, change: impl Fn(&mut SamplingParams)) -> [f32; 5] {
        let mut params = SamplingParams::default();
        change(&mut params);
        let mut logits = LOGITS;
        let mut edits = Edits::default();
        // Twice: the counts of one token must not reach into the next.
        for _ in 0..2 {
            logits = LOGITS;
            edits.apply(&mut logits, history, &params).unwrap();
        }
        let result = logits;
        edits.undo(&mut logits);
        assert_eq!(logits, LOGITS);
        result
    }

    #[test]
    fn repetition_moves_every_seen_token_down_once() {
        let history = History::new(&[0, 1, 0, 2], 2);
        let logits = edited(history, |p| p.repetition_penalty = 2.0);
        assert_eq!(logits, [1.0, -4.0, 0.0, 1.0, -1.0]);
    }

    #[test]
    fn frequency_counts_generated_tokens_alone() {
        let history = History::new(&[0, 0, 1, 1, 1, 3], 3);
        let logits = edited(history, |p| p.frequency_penalty = 0.5);
        assert_eq!(logits, [2.0, -3.0, 0.0, 0.5, -1.0]);
    }

    #[test]
    fn presence_counts_once_and_not_the_prompt() {
        let history = History::new(&[0, 0, 1, 1, 1, 3], 3);
        let logits = edited(history, |p| p.presence_penalty = 0.5);
        assert_eq!(logits, [2.0, -2.5, 0.0, 0.5, -1.0]);
    }

    #[test]
    fn the_window_limits_all_three() {
        let history = History::new(&[0, 1, 2, 3, 3], 2);
        let logits = edited(history, |p| {
            (p.repetition_penalty, p.frequency_penalty, p.penalty_last_n) = (2.0, 0.25, 2);
        });
        assert_eq!(logits, [2.0, -2.0, 0.0, 0.0, -1.0]);
    }

    #[test]
    fn bias_comes_first_then_repetition_then_frequency() {
        let history = History::new(&[1], 0);
        let logits = edited(history, |p| {
            p.logit_bias = [(1, 4.0)].into();
            (p.repetition_penalty, p.frequency_penalty) = (2.0, 0.25);
        });
        // (-2 + 4) / 2 - 0.25; the other way round it would be (-2 · 2 + 4) - 0.25.
        assert_eq!(logits[1], 0.75);
    }

    #[test]
    fn banned_stays_banned() {
        let history = History::new(&[1, 1], 0);
        let logits = edited(history, |p| {
            p.logit_bias = [(1, f32::NEG_INFINITY)].into();
            (p.repetition_penalty, p.frequency_penalty, p.presence_penalty) = (0.5, -2.0, -2.0);
        });
        assert_eq!(logits[1], f32::NEG_INFINITY);
    }

    #[test]
    fn ids_beyond_the_vocabulary_are_named_and_nothing_is_left_changed() {
        let params = SamplingParams { repetition_penalty: 2.0, logit_bias: [(0, 1.0)].into(), ..Default::default() };
        let mut logits = LOGITS;
        let error = Edits::default().apply(&mut logits, History::new(&[0, 5], 1), &params).unwrap_err();
        assert_eq!(error.to_string(), "the history names token 5, the model has logits for 5 tokens (0 to 5 - 1)");
        assert_eq!(logits, LOGITS);
        let params = SamplingParams { logit_bias: [(0, 1.0), (9, 1.0)].into(), ..Default::default() };
        let error = Edits::default().apply(&mut logits, History::default(), &params).unwrap_err();
        assert!(error.to_string().starts_with("the logit bias names token 9"), "{error}");
        assert_eq!(logits, LOGITS);
    }
}
