use std::fmt;
use std::str::FromStr;

use crate::error::ConfigError;

/// Which positions go through the head.
///
/// Only these rows are computed: the last position of a sequence is what decoding needs, and with the vocabulary of
/// the real models every further row costs 202,048 numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReturnLogits {
    /// `last_token`: the last position of each sequence, `[batch, vocab]`.
    #[default]
    LastToken,
    /// `variable`, or `variable:N`: the last `N` positions of each sequence (1 where no number is given).
    Variable(usize),
    /// `all`: every position.
    All,
}

impl ReturnLogits {
    const FIELD: &'static str = "return_logits";
    const WORDS: &'static str = "last_token, variable:N, all";

    /// How many of a sequence's `tokens` new positions get logits: the last ones, at most all.
    pub fn rows(&self, tokens: usize) -> usize {
        match self {
            Self::LastToken => tokens.min(1),
            Self::Variable(count) => tokens.min(*count),
            Self::All => tokens,
        }
    }

    /// # Errors
    /// When no position at all is asked for.
    pub fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Self::Variable(0) => Err(ConfigError::invalid(Self::FIELD, self, "at least one position is needed")),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for ReturnLogits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LastToken => f.write_str("last_token"),
            Self::Variable(count) => write!(f, "variable:{count}"),
            Self::All => f.write_str("all"),
        }
    }
}

impl FromStr for ReturnLogits {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let unknown = || ConfigError::unsupported(Self::FIELD, quoted(text), Self::WORDS);
        let (word, operand) = word_and_operand(text);
        let mode = match (word.as_str(), operand) {
            ("last_token", None) => Self::LastToken,
            ("variable", None) => Self::Variable(1),
            ("variable", Some(count)) => Self::Variable(count.trim().parse().map_err(|_| unknown())?),
            ("all", None) => Self::All,
            _ => return Err(unknown()),
        };
        mode.validate()?;
        Ok(mode)
    }
}

/// Which hidden states a forward pass hands back beside the logits.
///
/// "Residual stream" is the output of the last layer (or of a chosen one) before the final norm.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ReturnHiddenStates {
    /// `none`: nothing more.
    #[default]
    None,
    /// `last`: the residual stream of each sequence's last token, `[batch, hidden]`.
    Last,
    /// `last-per-device`: the same, one copy per device. As the model runs on one device, the same as [`Last`](Self::Last).
    LastPerDevice,
    /// `all`: the residual stream of every token, `[tokens, hidden]`.
    All,
    /// `all-normalized`: every token after the final norm, `[tokens, hidden]`: what the head multiplies.
    AllNormalized,
    /// `selected-layers:0,3`: the residual stream of every token after each of these layers, `[tokens, hidden]` each, in
    /// increasing order. Layers count from zero. Build it with [`selected_layers`](Self::selected_layers), which sorts them.
    SelectedLayers(Vec<usize>),
}

impl ReturnHiddenStates {
    const FIELD: &'static str = "return_hidden_states";
    const WORDS: &'static str = "none, last, last-per-device, all, all-normalized, selected-layers:I,J,...";

    /// The mode that returns the outputs of `layers`, in increasing order whatever the order given.
    ///
    /// # Errors
    /// When the list is empty or names a layer twice.
    pub fn selected_layers(layers: impl IntoIterator<Item = usize>) -> Result<Self, ConfigError> {
        let mut layers: Vec<usize> = layers.into_iter().collect();
        layers.sort_unstable();
        let mode = Self::SelectedLayers(layers);
        mode.validate(usize::MAX)?;
        Ok(mode)
    }

    /// The layers whose output is asked for.
    pub fn layers(&self) -> &[usize] {
        match self {
            Self::SelectedLayers(layers) => layers,
            _ => &[],
        }
    }

    /// # Errors
    /// When layers are asked for that a model of `num_hidden_layers` layers lacks, none is, or they are not in strictly
    /// increasing order.
    pub fn validate(&self, num_hidden_layers: usize) -> Result<(), ConfigError> {
        let Self::SelectedLayers(layers) = self else {
            return Ok(());
        };
        let rule = if layers.is_empty() {
            "at least one layer is needed".to_string()
        } else if layers.windows(2).any(|pair| pair[0] >= pair[1]) {
            "its layers must increase, each named once".to_string()
        } else if layers.iter().any(|&layer| layer >= num_hidden_layers) {
            format!("the model's layers are 0 to {}", num_hidden_layers.saturating_sub(1))
        } else {
            return Ok(());
        };
        Err(ConfigError::invalid(Self::FIELD, self, rule))
    }
}

impl fmt::Display for ReturnHiddenStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Last => f.write_str("last"),
            Self::LastPerDevice => f.write_str("last-per-device"),
            Self::All => f.write_str("all"),
            Self::AllNormalized => f.write_str("all-normalized"),
            Self::SelectedLayers(layers) => {
                f.write_str("selected-layers")?;
                for (index, layer) in layers.iter().enumerate() {
                    write!(f, "{}{layer}", if index == 0 { ':' } else { ',' })?;
                }
                Ok(())
            }
        }
    }
}

impl FromStr for ReturnHiddenStates {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let unknown = || ConfigError::unsupported(Self::FIELD, quoted(text), Self::WORDS);
        let (word, operand) = word_and_operand(text);
        Ok(match (word.as_str(), operand) {
            ("none", None) => Self::None,
            ("last", None) => Self::Last,
            ("last_per_device", None) => Self::LastPerDevice,
            ("all", None) => Self::All,
            ("all_normalized", None) => Self::AllNormalized,
            ("selected_layers", operand) => {
                let layers = operand.unwrap_or_default().split(',').map(str::trim).filter(|layer| !layer.is_empty());
                let layers = layers.map(|layer| layer.parse().map_err(|_| unknown())).collect::<Result<Vec<_>, _>>()?;
                Self::selected_layers(layers)?
            }
            _ => return Err(unknown()),
        })
    }
}

/// `Selected-Layers:0,3` -> (`selected_layers`, `0,3`): case and the kind of dash do not matter.
fn word_and_operand(text: &str) -> (String, Option<&str>) {
    let (word, operand) = match text.split_once(':') {
        Some((word, operand)) => (word, Some(operand)),
        None => (text, None),
    };
    (word.trim().to_ascii_lowercase().replace('-', "_"), operand)
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_is_read_back_from_what_it_writes() {
        for mode in [ReturnLogits::LastToken, ReturnLogits::Variable(7), ReturnLogits::All] {
            assert_eq!(mode.to_string().parse::<ReturnLogits>().unwrap(), mode);
        }
        for mode in [
            ReturnHiddenStates::None,
            ReturnHiddenStates::Last,
            ReturnHiddenStates::LastPerDevice,
            ReturnHiddenStates::All,
            ReturnHiddenStates::AllNormalized,
            ReturnHiddenStates::SelectedLayers(vec![0, 3, 47]),
        ] {
            assert_eq!(mode.to_string().parse::<ReturnHiddenStates>().unwrap(), mode);
        }
    }

    #[test]
    fn both_dashes_are_read() {
        assert_eq!("last-token".parse::<ReturnLogits>().unwrap(), ReturnLogits::LastToken);
        assert_eq!("variable".parse::<ReturnLogits>().unwrap(), ReturnLogits::Variable(1));
        assert_eq!("all_normalized".parse::<ReturnHiddenStates>().unwrap(), ReturnHiddenStates::AllNormalized);
        assert_eq!(
            "SELECTED_LAYERS: 3, 0".parse::<ReturnHiddenStates>().unwrap(),
            ReturnHiddenStates::SelectedLayers(vec![0, 3])
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_words_that_can() {
        for text in ["", "first", "all:2", "variable:", "variable:0", "variable:-1", "variable:x"] {
            let error = text.parse::<ReturnLogits>().unwrap_err().to_string();
            assert!(error.contains("return_logits"), "{error}");
        }
        for text in
            ["", "layers", "last:1", "selected-layers", "selected-layers:", "selected-layers:1,1", "selected-layers:a"]
        {
            let error = text.parse::<ReturnHiddenStates>().unwrap_err().to_string();
            assert!(error.contains("return_hidden_states"), "{error}");
        }
        let error = "lats".parse::<ReturnHiddenStates>().unwrap_err().to_string();
        assert!(error.contains("\"lats\"") && error.contains("all-normalized"), "{error}");
    }

    #[test]
    fn a_layer_that_the_model_lacks_is_refused_with_its_depth() {
        let mode = ReturnHiddenStates::SelectedLayers(vec![0, 4]);
        assert!(mode.validate(5).is_ok());
        let error = mode.validate(4).unwrap_err().to_string();
        assert_eq!(error, "`return_hidden_states` is selected-layers:0,4, but the model's layers are 0 to 3");
        assert!(ReturnHiddenStates::SelectedLayers(vec![2, 1]).validate(4).is_err());
    }

    #[test]
    fn rows_are_at_most_the_tokens_there_are() {
        assert_eq!(ReturnLogits::LastToken.rows(5), 1);
        assert_eq!(ReturnLogits::Variable(3).rows(5), 3);
        assert_eq!(ReturnLogits::Variable(9).rows(5), 5);
        assert_eq!(ReturnLogits::All.rows(5), 5);
    }
}
