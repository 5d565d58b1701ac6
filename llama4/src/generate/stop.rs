use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use super::StopStrings;
use crate::error::GenerateError;

/// When to stop. The default stops at nothing but the end of the context.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StopConditions {
    /// Tokens that end the text; Llama 4 has several.
    pub end_ids: Vec<u32>,
    /// Texts that end the text; they are not part of it. None may be empty.
    pub stop_strings: Vec<String>,
    /// The most tokens to generate, the end token included. `None`: until the context is full.
    pub max_new_tokens: Option<usize>,
    /// Go on after a token of `end_ids`, as if it were any other: for measurements.
    pub ignore_eos: bool,
}

impl StopConditions {
    /// Whether `id` ends the text.
    pub fn is_end(&self, id: u32) -> bool {
        !self.ignore_eos && self.end_ids.contains(&id)
    }

    /// Whether no further token may follow `generated` new ones.
    pub fn is_limit(&self, generated: usize) -> bool {
        self.max_new_tokens.is_some_and(|max| generated >= max)
    }

    /// A fresh filter for one sequence's text.
    ///
    /// # Errors
    /// [`GenerateError::EmptyStopString`].
    pub fn filter(&self) -> Result<StopStrings, GenerateError> {
        StopStrings::new(self.stop_strings.iter().cloned())
    }
}

/// Why a sequence ended. Its serialised form is its [name](Self::name).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// The model chose this end token.
    EndToken(u32),
    /// The text ran into this stop string.
    StopString(String),
    /// As many tokens as allowed were generated.
    MaxNewTokens,
    /// The context has no room for another token.
    ContextFull,
    /// The caller stopped it.
    Cancelled,
}

impl FinishReason {
    /// A name that does not change between versions: `end_token`, `stop_string`, `max_new_tokens`, `context_full` or
    /// `cancelled`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::EndToken(_) => "end_token",
            Self::StopString(_) => "stop_string",
            Self::MaxNewTokens => "max_new_tokens",
            Self::ContextFull => "context_full",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for FinishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for FinishReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_tokens_end_unless_ignored() {
        let mut stop = StopConditions { end_ids: vec![4, 9], ..Default::default() };
        assert!(stop.is_end(4) && stop.is_end(9) && !stop.is_end(5));
        stop.ignore_eos = true;
        assert!(!stop.is_end(4));
    }

    #[test]
    fn the_limit_counts_generated_tokens() {
        let mut stop = StopConditions::default();
        assert!(!stop.is_limit(usize::MAX));
        stop.max_new_tokens = Some(3);
        assert_eq!([2, 3, 4].map(|n| stop.is_limit(n)), [false, true, true]);
        stop.max_new_tokens = Some(0);
        assert!(stop.is_limit(0));
    }

    #[test]
    fn names_are_stable() {
        let reasons = [
            FinishReason::EndToken(1),
            FinishReason::StopString("x".into()),
            FinishReason::MaxNewTokens,
            FinishReason::ContextFull,
            FinishReason::Cancelled,
        ];
        assert_eq!(
            serde_json::to_string(&reasons).unwrap(),
            r#"["end_token","stop_string","max_new_tokens","context_full","cancelled"]"#
        );
        assert_eq!(reasons[0].to_string(), "end_token");
    }

    #[test]
    fn an_empty_stop_string_is_refused_by_its_index() {
        let stop = StopConditions { stop_strings: vec!["a".into(), String::new()], ..Default::default() };
        assert!(matches!(stop.filter(), Err(GenerateError::EmptyStopString { index: 1 })));
    }
}
