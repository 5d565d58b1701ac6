use std::path::Path;

use serde_json::{Map, Value};

use super::hf::{Section, parse_file};
use crate::error::ConfigError;

/// A checkpoint's `generation_config.json`: how its makers sample from it. Every key is optional; others are ignored.
///
/// Values are as found. Whether they make sense is for the sampler to say, which also knows what the user overrides.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Sample, or take the likeliest token.
    pub do_sample: Option<bool>,
    /// Divides the logits.
    pub temperature: Option<f64>,
    /// Smallest set of likely tokens with this share of the probability.
    pub top_p: Option<f64>,
    /// So many of the likeliest tokens; 0 is all of them (as is -1 in the file).
    pub top_k: Option<usize>,
    /// Tokens with at least this share of the likeliest one's probability.
    pub min_p: Option<f64>,
    /// Makes tokens that are there already less likely.
    pub repetition_penalty: Option<f64>,
    /// Token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// Token that fills up a row.
    pub pad_token_id: Option<u32>,
    /// Tokens to generate at most.
    pub max_new_tokens: Option<usize>,
    /// Tokens of prompt and answer together at most.
    pub max_length: Option<usize>,
}

impl GenerationConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, is not a JSON object, or a value is of the wrong type.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        parse_file(path.as_ref(), Self::from_slice)
    }

    /// Reads a file that need not be there: checkpoints without one are common.
    ///
    /// # Errors
    /// When it is there, as [`from_file`](Self::from_file).
    pub fn from_file_if_present(path: impl AsRef<Path>) -> Result<Option<Self>, ConfigError> {
        match Self::from_file(path) {
            Ok(config) => Ok(Some(config)),
            Err(ConfigError::Read { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// When it is not a JSON object, or a value is of the wrong type.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        Self::from_slice(text.as_bytes())
    }

    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json).
    pub fn from_slice(bytes: &[u8]) -> Result<Self, ConfigError> {
        let map: Map<String, Value> = serde_json::from_slice(bytes).map_err(|error| ConfigError::Json { error })?;
        let file = Section::new("", &map);
        let top_k = match file.get("top_k").and_then(Value::as_i64) {
            Some(-1) => Some(0),
            _ => file.count("top_k")?,
        };
        // Absent is not off: the caller's default holds then.
        let do_sample = match file.get("do_sample") {
            Some(_) => file.switch("do_sample")?,
            None => None,
        };
        Ok(Self {
            do_sample,
            temperature: file.number("temperature")?,
            top_p: file.number("top_p")?,
            top_k,
            min_p: file.number("min_p")?,
            repetition_penalty: file.number("repetition_penalty")?,
            bos_token_id: file.token_id("bos_token_id")?,
            eos_token_ids: file.token_ids("eos_token_id")?,
            pad_token_id: file.token_id("pad_token_id")?,
            max_new_tokens: file.count("max_new_tokens")?,
            max_length: file.count("max_length")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_real_file_is_read() {
        // Scout Instruct's.
        let text = r#"{"bos_token_id": 200000, "do_sample": true, "eos_token_id": [200001, 200007, 200008],
            "pad_token_id": 200018, "temperature": 0.6, "top_p": 0.9, "transformers_version": "4.51.0.dev0"}"#;
        let expected = GenerationConfig {
            do_sample: Some(true),
            temperature: Some(0.6),
            top_p: Some(0.9),
            bos_token_id: Some(200_000),
            eos_token_ids: vec![200_001, 200_007, 200_008],
            pad_token_id: Some(200_018),
            ..GenerationConfig::default()
        };
        assert_eq!(GenerationConfig::from_json(text).unwrap(), expected);
    }

    #[test]
    fn every_key_is_optional_and_null_is_absent() {
        let empty = GenerationConfig::default();
        for text in [
            "{}",
            r#"{"do_sample": null, "temperature": null, "eos_token_id": null, "top_k": null}"#,
            r#"{"pad_token_id": -1, "anything": {"else": 1}}"#,
        ] {
            assert_eq!(GenerationConfig::from_json(text).unwrap(), empty, "{text}");
        }
        let one = GenerationConfig::from_json(
            r#"{"eos_token_id": 2, "top_k": -1, "min_p": 0.05, "repetition_penalty": 1.1, "max_new_tokens": 20}"#,
        )
        .unwrap();
        assert_eq!((one.eos_token_ids, one.top_k), (vec![2], Some(0)));
        assert_eq!((one.min_p, one.repetition_penalty), (Some(0.05), Some(1.1)));
        assert_eq!(one.max_new_tokens, Some(20));
    }

    #[test]
    fn errors_name_file_key_and_value() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("generation_config.json");
        assert_eq!(GenerationConfig::from_file_if_present(&file).unwrap(), None);
        assert!(GenerationConfig::from_file(&file).is_err());
        std::fs::write(&file, r#"{"temperature": "hot"}"#).unwrap();
        let error = GenerationConfig::from_file_if_present(&file).unwrap_err().to_string();
        assert!(error.contains("generation_config.json: `temperature` is \"hot\""), "{error}");
    }
}
