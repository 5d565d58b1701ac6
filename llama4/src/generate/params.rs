use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::GenerateError;

/// How the next token is chosen; the order of the steps is that of [`Sampler`](super::Sampler).
///
/// The default is greedy with everything else off. Every field may be left out of its JSON form, an unknown one is an
/// error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingParams {
    /// Divides the logits: below 1 sharper, above 1 flatter. 0 is greedy: the most likely token, of equal ones the
    /// lowest id. Finite, at least 0.
    pub temperature: f32,
    /// Only the `top_k` most likely tokens can be drawn, of equal ones the lowest ids. 0 is off, 1 is greedy.
    pub top_k: usize,
    /// Only the smallest set of most likely tokens whose probabilities reach `top_p` can be drawn; it has at least one
    /// token. Within 0 to 1, 1 is off.
    pub top_p: f32,
    /// Only tokens at least `min_p` times as likely as the most likely one can be drawn. Within 0 to 1, 0 is off.
    pub min_p: f32,
    /// For every token in the prompt or the generated text, divides a positive logit and multiplies a negative one
    /// (the rule of the CTRL paper, as in transformers). Above 0, 1 is off, above 1 discourages.
    pub repetition_penalty: f32,
    /// Subtracted from a token's logit once for each time it was generated (the prompt does not count). 0 is off,
    /// below 0 encourages.
    pub frequency_penalty: f32,
    /// Subtracted once from the logit of each token that was generated (the prompt does not count). 0 is off.
    pub presence_penalty: f32,
    /// The three penalties look at the last `penalty_last_n` tokens of prompt and generated text together. 0 looks at
    /// all of them.
    pub penalty_last_n: usize,
    /// Where the random numbers start: the same seed on the same logits draws the same tokens, on every platform.
    /// Without one the operating system gives one.
    pub seed: Option<u64>,
    /// Added to the logits of single tokens before anything else. Nothing is clamped: -100 all but bans a token, 100
    /// all but forces it, `-inf` bans it for good (JSON has no infinity: use -100 there). `+inf` and NaN are refused.
    pub logit_bias: BTreeMap<u32, f32>,
    /// `None`: no log probabilities. `Some(n)`: that of the chosen token, and of the `n` most likely ones.
    pub logprobs: Option<usize>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            penalty_last_n: 0,
            seed: None,
            logit_bias: BTreeMap::new(),
            logprobs: None,
        }
    }
}

impl SamplingParams {
    /// Checks every field.
    ///
    /// # Errors
    /// [`GenerateError::Parameter`] names the first field that is out of range, its value and the rule.
    pub fn validate(&self) -> Result<(), GenerateError> {
        let not_negative = |x: f32| x.is_finite() && x >= 0.0;
        let share = |x: f32| (0.0..=1.0).contains(&x);
        let positive = |x: f32| x.is_finite() && x > 0.0;
        check("temperature", self.temperature, not_negative, "finite and at least 0")?;
        check("top_p", self.top_p, share, "within 0 to 1")?;
        check("min_p", self.min_p, share, "within 0 to 1")?;
        check("repetition_penalty", self.repetition_penalty, positive, "finite and above 0")?;
        check("frequency_penalty", self.frequency_penalty, f32::is_finite, "finite")?;
        check("presence_penalty", self.presence_penalty, f32::is_finite, "finite")?;
        for (id, &bias) in &self.logit_bias {
            let usable = |x: f32| x < f32::INFINITY;
            check(&format!("logit_bias[{id}]"), bias, usable, "finite, or -inf to ban the token")?;
        }
        Ok(())
    }

    /// Whether the choice is the most likely token, without chance.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0 || self.top_k == 1
    }

    /// Whether a [`Sampler`](super::Sampler) must see the logits. Where it need not, the lowest id of the largest
    /// logit is the answer, and may be found where the logits are.
    pub fn needs_logits(&self) -> bool {
        !self.is_greedy() || self.penalizes() || !self.logit_bias.is_empty() || self.logprobs.is_some()
    }

    /// Whether one of the three penalties is on.
    pub(super) fn penalizes(&self) -> bool {
        self.repetition_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0
    }
}

fn check(field: &str, value: f32, holds: impl Fn(f32) -> bool, rule: &'static str) -> Result<(), GenerateError> {
    if holds(value) {
        return Ok(());
    }
    Err(GenerateError::Parameter { field: field.to_owned(), value: value.to_string(), rule })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl Fn(&mut SamplingParams)) -> String {
        let mut params = SamplingParams::default();
        change(&mut params);
        params.validate().unwrap_err().to_string()
    }

    #[test]
    fn the_default_is_valid_and_needs_no_logits() {
        let params = SamplingParams::default();
        params.validate().unwrap();
        assert!(params.is_greedy());
        assert!(!params.needs_logits());
    }

    #[test]
    fn whatever_changes_or_reports_the_logits_needs_them() {
        let needs = |change: fn(&mut SamplingParams)| {
            let mut params = SamplingParams::default();
            change(&mut params);
            params.needs_logits()
        };
        assert!(needs(|p| p.temperature = 0.5));
        assert!(needs(|p| p.repetition_penalty = 1.1));
        assert!(needs(|p| p.frequency_penalty = -0.1));
        assert!(needs(|p| p.presence_penalty = 0.1));
        assert!(needs(|p| p.logit_bias = [(3, 1.0)].into()));
        assert!(needs(|p| p.logprobs = Some(0)));
        assert!(!needs(|p| (p.temperature, p.top_k) = (1.0, 1)));
        assert!(!needs(|p| (p.top_k, p.top_p, p.min_p, p.seed) = (40, 0.9, 0.1, Some(1))));
    }

    #[test]
    fn errors_name_field_value_and_rule() {
        assert_eq!(refused(|p| p.temperature = -0.5), "temperature is -0.5: it must be finite and at least 0");
        assert_eq!(refused(|p| p.top_p = 1.5), "top_p is 1.5: it must be within 0 to 1");
        assert_eq!(
            refused(|p| p.logit_bias = [(7, f32::INFINITY)].into()),
            "logit_bias[7] is inf: it must be finite, or -inf to ban the token"
        );
    }

    #[test]
    fn nan_is_refused_everywhere() {
        type Change = fn(&mut SamplingParams);
        let fields: [(&str, Change); 7] = [
            ("temperature", |p| p.temperature = f32::NAN),
            ("top_p", |p| p.top_p = f32::NAN),
            ("min_p", |p| p.min_p = f32::NAN),
            ("repetition_penalty", |p| p.repetition_penalty = f32::NAN),
            ("frequency_penalty", |p| p.frequency_penalty = f32::NAN),
            ("presence_penalty", |p| p.presence_penalty = f32::NAN),
            ("logit_bias[0]", |p| p.logit_bias = [(0, f32::NAN)].into()),
        ];
        for (field, change) in fields {
            let message = refused(change);
            assert!(message.starts_with(&format!("{field} is NaN")), "{message}");
        }
    }

    #[test]
    fn ends_of_the_ranges() {
        refused(|p| p.temperature = f32::INFINITY);
        refused(|p| p.repetition_penalty = 0.0);
        refused(|p| p.min_p = -0.001);
        let mut params = SamplingParams { top_p: 0.0, min_p: 1.0, ..Default::default() };
        params.logit_bias.insert(1, f32::NEG_INFINITY);
        params.validate().unwrap();
    }

    #[test]
    fn json_may_leave_out_fields_but_not_misspell_them() {
        let params: SamplingParams =
            serde_json::from_str(r#"{"temperature": 0.6, "logit_bias": {"12": -100}, "seed": 7}"#).unwrap();
        assert_eq!((params.temperature, params.top_p, params.seed), (0.6, 1.0, Some(7)));
        assert_eq!(params.logit_bias[&12], -100.0);
        let again = serde_json::from_str(&serde_json::to_string(&params).unwrap()).unwrap();
        assert_eq!(params, again);
        let error = serde_json::from_str::<SamplingParams>(r#"{"temprature": 1.0}"#).unwrap_err();
        assert!(error.to_string().contains("temprature"), "{error}");
    }
}
