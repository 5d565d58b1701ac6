//! Where checkpoints keep their chat template.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::ChatTemplate;
use crate::error::TextError;

/// Tokens that templates see by name, and their fields in `tokenizer_config.json`.
const NAMED_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

const FIELD: &str = "chat_template";

impl ChatTemplate {
    /// The template of a checkpoint directory: `chat_template.jinja`, else `chat_template.json`, else the field of that
    /// name in `tokenizer_config.json`; of several named ones, "default". `None` if the checkpoint brings none, as base
    /// models do; the [default](ChatTemplate::default) is Llama 4's format.
    ///
    /// Names of tokens come from `tokenizer_config.json` too.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Option<Self>, TextError> {
        let dir = dir.as_ref();
        let config_path = dir.join("tokenizer_config.json");
        let config = read_json(&config_path)?;
        let Some((name, source)) = find(dir, config.as_ref().map(|config| (&config_path, config)))? else {
            return Ok(None);
        };
        let template = Self::new(name, &source)?;
        Ok(Some(match config {
            None => template,
            Some(config) => template.with_tokens(named_tokens(&config_path, &config)?),
        }))
    }

    /// A template in a file of its own.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TextError> {
        let path = path.as_ref();
        match read(path)? {
            Some(source) => Self::new(path.display().to_string(), &source),
            None => Err(TextError::Read { path: path.to_owned(), source: std::io::ErrorKind::NotFound.into() }),
        }
    }
}

/// Name and text of the template.
fn find(dir: &Path, config: Option<(&PathBuf, &Value)>) -> Result<Option<(String, String)>, TextError> {
    let path = dir.join("chat_template.jinja");
    if let Some(source) = read(&path)? {
        return Ok(Some((path.display().to_string(), source)));
    }
    let path = dir.join("chat_template.json");
    if let Some(json) = read_json(&path)?
        && let Some(found) = in_json(&path, &json)?
    {
        return Ok(Some(found));
    }
    match config {
        Some((path, json)) => in_json(path, json),
        None => Ok(None),
    }
}

/// The field in a JSON file: one text, or a list of named ones.
fn in_json(path: &Path, json: &Value) -> Result<Option<(String, String)>, TextError> {
    let found = |source: &str| Ok(Some((format!("{} ({FIELD})", path.display()), source.to_owned())));
    match &json[FIELD] {
        Value::Null => Ok(None),
        Value::String(source) => found(source),
        Value::Array(entries) => {
            let mut names = Vec::new();
            for entry in entries {
                let (Some(name), Some(source)) = (entry["name"].as_str(), entry["template"].as_str()) else {
                    return Err(unexpected(path, FIELD, "a list of {name, template}", entry));
                };
                if name == "default" {
                    return found(source);
                }
                names.push(name.to_owned());
            }
            Err(TextError::NoDefaultTemplate { path: path.to_owned(), names })
        }
        other => Err(unexpected(path, FIELD, "a text or a list of {name, template}", other)),
    }
}

/// A token is written as its text or as an object with the field `content`.
fn named_tokens(path: &Path, config: &Value) -> Result<Vec<(String, String)>, TextError> {
    let mut tokens = Vec::new();
    for name in NAMED_TOKENS {
        let text = match &config[name] {
            Value::Null => continue,
            Value::String(text) => text,
            other => match &other["content"] {
                Value::String(text) => text,
                _ => return Err(unexpected(path, name, "a token", other)),
            },
        };
        tokens.push((name.to_owned(), text.clone()));
    }
    Ok(tokens)
}

fn unexpected(path: &Path, field: &'static str, expected: &'static str, found: &Value) -> TextError {
    let mut found = found.to_string();
    if let Some((end, _)) = found.char_indices().nth(80) {
        found.truncate(end);
        found.push('…');
    }
    TextError::Field { path: path.to_owned(), field, expected, found }
}

/// The text of a file, `None` if it is not there.
fn read(path: &Path) -> Result<Option<String>, TextError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TextError::Read { path: path.to_owned(), source }),
    }
}

fn read_json(path: &Path) -> Result<Option<Value>, TextError> {
    let Some(text) = read(path)? else {
        return Ok(None);
    };
    let json = serde_json::from_str(&text).map_err(|source| TextError::Json { path: path.to_owned(), source })?;
    Ok(Some(json))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::ChatMessage;
    use serde_json::json;
    use tempfile::TempDir;

    fn dir(files: &[(&str, String)]) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        dir
    }

    fn rendered(dir: &TempDir) -> String {
        let template = ChatTemplate::from_dir(dir.path()).unwrap().unwrap();
        template.render(&[ChatMessage::user("x")], true).unwrap()
    }

    #[test]
    fn the_first_of_three_places_counts() {
        let config = ("tokenizer_config.json", json!({FIELD: "c"}).to_string());
        let json = ("chat_template.json", json!({FIELD: "b"}).to_string());
        let jinja = ("chat_template.jinja", "a".to_owned());
        assert_eq!(rendered(&dir(std::slice::from_ref(&config))), "c");
        assert_eq!(rendered(&dir(&[config.clone(), json.clone()])), "b");
        assert_eq!(rendered(&dir(&[config, json, jinja])), "a");

        let none = ("tokenizer_config.json", json!({FIELD: null}).to_string());
        assert!(ChatTemplate::from_dir(dir(&[none]).path()).unwrap().is_none());
        assert!(ChatTemplate::from_dir(dir(&[]).path()).unwrap().is_none());
    }

    #[test]
    fn of_named_templates_the_default_counts() {
        let list = |names: &[&str]| {
            let entries: Vec<_> =
                names.iter().map(|name| json!({"name": name, "template": format!("<{name}>")})).collect();
            dir(&[("tokenizer_config.json", json!({FIELD: entries}).to_string())])
        };
        assert_eq!(rendered(&list(&["tool_use", "default"])), "<default>");
        let error = ChatTemplate::from_dir(list(&["tool_use", "rag"]).path()).unwrap_err();
        assert!(error.to_string().contains(r#"["tool_use", "rag"]"#), "{error}");
    }

    #[test]
    fn tokens_come_from_the_config_if_there_is_one() {
        let template = ("chat_template.jinja", "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}".to_owned());
        assert_eq!(rendered(&dir(std::slice::from_ref(&template))), "<|begin_of_text|>|<|eot|>|");
        let config = json!({"bos_token": {"content": "<s>", "special": true}, "eos_token": null, "pad_token": "<p>"});
        let config = ("tokenizer_config.json", config.to_string());
        assert_eq!(rendered(&dir(&[template, config])), "<s>||<p>");
    }

    #[test]
    fn errors_name_file_field_and_value() {
        let wrong = |config: serde_json::Value| {
            let dir = dir(&[("tokenizer_config.json", config.to_string())]);
            ChatTemplate::from_dir(dir.path()).unwrap_err().to_string()
        };
        assert!(wrong(json!({FIELD: 3})).ends_with(
            "tokenizer_config.json: expected chat_template to be a text or a list of {name, template}, found 3"
        ));
        assert!(wrong(json!({FIELD: ["x"]})).ends_with("found \"x\""));
        assert!(wrong(json!({FIELD: "x", "bos_token": 1})).ends_with("expected bos_token to be a token, found 1"));
        // The line is that of the template, not of the JSON file.
        assert!(wrong(json!({FIELD: "a\n{% if %}"})).contains("tokenizer_config.json (chat_template):2: "));

        let broken = dir(&[("tokenizer_config.json", "{".to_owned())]);
        let broken = ChatTemplate::from_dir(broken.path()).unwrap_err();
        assert!(matches!(broken, TextError::Json { .. }), "{broken}");
        let missing = ChatTemplate::from_file("nowhere.jinja").unwrap_err();
        assert!(matches!(missing, TextError::Read { .. }), "{missing}");
    }
}
