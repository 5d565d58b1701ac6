use serde::{Deserialize, Serialize};

use super::rank::{Rank, keep_best};
use super::softmax::{log_sum_exp, peak};
use crate::error::GenerateError;

/// A token and the natural logarithm of its probability under the model: the log-softmax of the logits as the model
/// gave them, before bias, penalties and temperature.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// The token.
    pub id: u32,
    /// `ln p`, at most 0.
    pub logprob: f32,
}

/// The model's own distribution, ready to be asked.
pub(super) struct Logprobs<'a> {
    logits: &'a [f32],
    log_sum_exp: f64,
}

impl<'a> Logprobs<'a> {
    pub(super) fn new(logits: &'a [f32]) -> Result<Self, GenerateError> {
        let log_sum_exp = log_sum_exp(logits, peak(logits)?);
        Ok(Self { logits, log_sum_exp })
    }

    pub(super) fn of(&self, id: u32) -> TokenLogprob {
        let logprob = (f64::from(self.logits[id as usize]) - self.log_sum_exp).min(0.0) as f32;
        TokenLogprob { id, logprob }
    }

    /// The `count` most likely tokens, best first; fewer where fewer are possible. `ranks` is room to work in.
    pub(super) fn top(&self, count: usize, ranks: &mut Vec<Rank>) -> Vec<TokenLogprob> {
        keep_best(self.logits, count, ranks);
        ranks.sort_unstable();
        ranks.iter().map(|rank| self.of(rank.id())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logprobs_are_the_log_softmax() {
        let logits = [0.0, 3_f32.ln(), f32::NEG_INFINITY, 4_f32.ln()];
        let logprobs = Logprobs::new(&logits).unwrap();
        let top = logprobs.top(9, &mut Vec::new());
        assert_eq!(top.iter().map(|t| t.id).collect::<Vec<_>>(), [3, 1, 0]);
        for (token, p) in top.iter().zip([0.5_f32, 0.375, 0.125]) {
            assert!((token.logprob - p.ln()).abs() < 1e-6, "{token:?}");
        }
        assert_eq!(logprobs.of(2).logprob, f32::NEG_INFINITY);
    }

    #[test]
    fn a_certain_token_has_logprob_zero() {
        let logits = [f32::NEG_INFINITY, 17.3];
        assert_eq!(Logprobs::new(&logits).unwrap().of(1).logprob, 0.0);
    }
}
