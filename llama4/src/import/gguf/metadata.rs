use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::cursor::Cursor;
use super::value::{Array, Value, ValueKind};
use crate::error::{ConfigError, ImportError};
use crate::import::blob::Blob;

/// Longest key, as the format has it.
const MAX_KEY: usize = 65_535;

/// Most keys that are read; real files have some dozens.
const MAX_KEYS: usize = 1 << 16;

/// Longest list that is handed out; the longest of a real file are the merges of its tokenizer, 440,000.
const MAX_LIST: usize = 1 << 24;

/// Bytes of the smallest entry: a length, no key, a type, a bool.
const SMALLEST_ENTRY: usize = 8 + 4 + 1;

/// What a GGUF file says about its model: values by key. Strings and arrays stay in the file until they are asked for.
#[derive(Debug, Clone)]
pub(in crate::import) struct Metadata {
    blob: Blob,
    file: Arc<Path>,
    values: HashMap<String, Value>,
}

impl Metadata {
    /// Number of keys that are said to follow.
    pub(super) fn count(cursor: &mut Cursor) -> Result<usize, String> {
        cursor.count("metadata keys", SMALLEST_ENTRY, MAX_KEYS)
    }

    /// Read `count` keys and their values.
    pub(super) fn read(cursor: &mut Cursor, count: usize, blob: &Blob, file: &Arc<Path>) -> Result<Self, String> {
        let mut values = HashMap::new();
        for index in 0..count {
            let key = cursor.name(MAX_KEY).map_err(|reason| format!("metadata key {index}: {reason}"))?;
            let value = Value::read(cursor).map_err(|reason| format!("metadata key {key:?}: {reason}"))?;
            if values.insert(key.to_string(), value).is_some() {
                return Err(format!("metadata key {key:?} occurs twice"));
            }
        }
        Ok(Self { blob: blob.clone(), file: file.clone(), values })
    }

    #[cfg(test)]
    pub(in crate::import) fn file(&self) -> &Path {
        &self.file
    }

    /// A text.
    pub(in crate::import) fn text(&self, key: &str) -> Result<Option<&str>, ImportError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Text(range)) => self.utf8(key, range).map(Some),
            Some(value) => Err(self.wrong(key, value, "a text is wanted")),
        }
    }

    /// A number of things. A list with a number per layer is read as one number if it has only one.
    pub(super) fn whole(&self, key: &str) -> Result<Option<usize>, ImportError> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        let number = match value {
            Value::Array(array) => {
                let mut numbers = self.elements(array).map(|value| value.as_integer());
                let first = numbers.next().flatten();
                if numbers.any(|number| number != first) {
                    let layers = "the same number for every layer";
                    let error = ConfigError::unsupported(key, self.shown(value), layers);
                    return Err(error.in_file(&*self.file).into());
                }
                first
            }
            value => value.as_integer(),
        };
        match number.and_then(|number| usize::try_from(number).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(key, value, "a whole number is wanted")),
        }
    }

    /// [`whole`](Self::whole) of a key that has no default.
    pub(super) fn required_whole(&self, key: &str) -> Result<usize, ImportError> {
        self.whole(key)?.ok_or_else(|| self.missing(key))
    }

    /// A token's id. All bits set, which is ggml's "none", is `None`.
    pub(super) fn token_id(&self, key: &str) -> Result<Option<u32>, ImportError> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        match value.as_integer() {
            Some(-1) => Ok(None),
            Some(number) if number == i128::from(u32::MAX) => Ok(None),
            number => match number.and_then(|number| u32::try_from(number).ok()) {
                Some(id) => Ok(Some(id)),
                None => Err(self.wrong(key, value, "token ids are whole numbers below 2^32")),
            },
        }
    }

    /// A real number. One that is stored as `f32` is the shortest decimal that gives it: 1e-5, not 9.99999974738e-6.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, ImportError> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        let number = match value {
            Value::F32(number) => number.to_string().parse().ok(),
            Value::F64(number) => Some(*number),
            value => value.as_integer().map(|number| number as f64),
        };
        match number.filter(|number| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(key, value, "a finite number is wanted")),
        }
    }

    /// [`number`](Self::number) of a key that has no default.
    pub(super) fn required_number(&self, key: &str) -> Result<f64, ImportError> {
        self.number(key)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ImportError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(value) => Err(self.wrong(key, value, "true or false is wanted")),
        }
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, ImportError> {
        let Some(array) = self.list(key, "a list of texts is wanted", |kind| kind == ValueKind::Text)? else {
            return Ok(None);
        };
        let text = |value| match value {
            Value::Text(range) => self.utf8(key, &range),
            value => Err(self.wrong(key, &value, "a list of texts is wanted")),
        };
        self.elements(array).map(text).collect::<Result<_, _>>().map(Some)
    }

    /// A list of whole numbers.
    pub(super) fn integers(&self, key: &str) -> Result<Option<Vec<i128>>, ImportError> {
        let Some(array) = self.list(key, "a list of whole numbers is wanted", ValueKind::is_integer)? else {
            return Ok(None);
        };
        Ok(Some(self.elements(array).filter_map(|value| value.as_integer()).collect()))
    }

    pub(super) fn missing(&self, key: &str) -> ImportError {
        ConfigError::missing(key).in_file(&*self.file).into()
    }

    /// An error about the value of `key`, which must be there.
    pub(super) fn invalid(&self, key: &str, rule: &str) -> ImportError {
        let value = self.values.get(key).map_or_else(String::new, |value| self.shown(value));
        ConfigError::invalid(key, value, rule).in_file(&*self.file).into()
    }

    /// An error about the value of `key`, which has a meaning that is not implemented.
    pub(super) fn unsupported(&self, key: &str, supported: &str) -> ImportError {
        let value = self.values.get(key).map_or_else(|| "missing".to_string(), |value| self.shown(value));
        ConfigError::unsupported(key, value, supported).in_file(&*self.file).into()
    }

    fn list(&self, key: &str, rule: &str, fits: impl Fn(ValueKind) -> bool) -> Result<Option<&Array>, ImportError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Array(array)) if fits(array.kind) && array.count <= MAX_LIST => Ok(Some(array)),
            Some(value @ Value::Array(array)) if fits(array.kind) => {
                Err(self.wrong(key, value, &format!("at most {MAX_LIST} entries are read")))
            }
            Some(value) => Err(self.wrong(key, value, rule)),
        }
    }

    /// The values of an array, which were all seen to be there when the file was opened.
    fn elements(&self, array: &Array) -> impl Iterator<Item = Value> {
        let (kind, start) = (array.kind, array.bytes.start);
        let mut cursor = Cursor::new(&self.blob[array.bytes.clone()]);
        (0..array.count).map_while(move |_| Value::read_as(kind, &mut cursor).ok()).map(move |value| value.moved(start))
    }

    fn utf8(&self, key: &str, range: &Range<usize>) -> Result<&str, ImportError> {
        str::from_utf8(&self.blob[range.clone()]).map_err(|error| {
            let rule = format!("it must be UTF-8: {error}");
            ConfigError::invalid(key, "a text", rule).in_file(&*self.file).into()
        })
    }

    fn wrong(&self, key: &str, value: &Value, rule: &str) -> ImportError {
        ConfigError::invalid(key, self.shown(value), rule).in_file(&*self.file).into()
    }

    /// The value, short enough for a message.
    fn shown(&self, value: &Value) -> String {
        const LONGEST: usize = 80;
        match value {
            Value::Text(range) => {
                let text = &self.blob[range.clone()];
                let shown = String::from_utf8_lossy(&text[..text.len().min(LONGEST)]);
                format!("{shown:?}{}", if text.len() > LONGEST { "…" } else { "" })
            }
            value => value.to_string(),
        }
    }
}
