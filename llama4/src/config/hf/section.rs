use serde_json::{Map, Value};

use crate::error::ConfigError;

/// One JSON object of a file, read key by key, so that an error can name the key, its value and what it should be.
///
/// Everywhere `null` means absent, except in [`switch`](Section::switch).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Section<'a> {
    /// Keys this object is under, each with its dot: `""` or `"text_config."`.
    prefix: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Section<'a> {
    pub(crate) fn new(prefix: &'a str, map: &'a Map<String, Value>) -> Self {
        Self { prefix, map }
    }

    /// The key with the keys it is under, as errors name it.
    pub(crate) fn path(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The value of `key`, unless it is absent or null.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether `key` is there, null or not.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub(crate) fn missing(&self, key: &str) -> ConfigError {
        ConfigError::missing(self.path(key))
    }

    pub(crate) fn invalid(&self, key: &str, value: &Value, rule: impl Into<String>) -> ConfigError {
        ConfigError::invalid(self.path(key), shown(value), rule)
    }

    pub(crate) fn unsupported(&self, key: &str, value: &Value, supported: impl Into<String>) -> ConfigError {
        ConfigError::unsupported(self.path(key), shown(value), supported)
    }

    /// A number of things: not negative.
    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        let read = |value| whole(value).ok_or_else(|| self.invalid(key, value, "a whole number is wanted"));
        self.get(key).map(read).transpose()
    }

    /// [`count`](Self::count) of a key that has no default.
    pub(crate) fn required_count(&self, key: &str) -> Result<usize, ConfigError> {
        self.count(key)?.ok_or_else(|| self.missing(key))
    }

    /// A real number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        let read = |value: &Value| value.as_f64().ok_or_else(|| self.invalid(key, value, "a number is wanted"));
        self.get(key).map(read).transpose()
    }

    /// A flag, `None` where absent. Like the truth of a value in Python: null and 0 are off, other numbers on.
    pub(crate) fn switch(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        match self.map.get(key) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(false)),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number != 0.0)),
                None => Err(self.invalid(key, value, "true, false or a number is wanted")),
            },
        }
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        let read = |value: &'a Value| value.as_str().ok_or_else(|| self.invalid(key, value, "a text is wanted"));
        self.get(key).map(read).transpose()
    }

    pub(crate) fn list(&self, key: &str) -> Result<Option<&'a [Value]>, ConfigError> {
        let read = |value: &'a Value| match value {
            Value::Array(items) => Ok(items.as_slice()),
            _ => Err(self.invalid(key, value, "a list is wanted")),
        };
        self.get(key).map(read).transpose()
    }

    pub(crate) fn object(&self, key: &str) -> Result<Option<&'a Map<String, Value>>, ConfigError> {
        let read = |value: &'a Value| value.as_object().ok_or_else(|| self.invalid(key, value, "an object is wanted"));
        self.get(key).map(read).transpose()
    }

    /// A token id. -1, which some files use for "none", is `None`.
    pub(crate) fn token_id(&self, key: &str) -> Result<Option<u32>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => self.id(key, value),
        }
    }

    /// One token id, a list of them, or none.
    pub(crate) fn token_ids(&self, key: &str) -> Result<Vec<u32>, ConfigError> {
        let ids: Vec<Option<u32>> = match self.get(key) {
            None => Vec::new(),
            Some(Value::Array(values)) => {
                let ids = values.iter().map(|value| self.id(key, value));
                ids.collect::<Result<_, _>>()?
            }
            Some(value) => vec![self.id(key, value)?],
        };
        Ok(ids.into_iter().flatten().collect())
    }

    fn id(&self, key: &str, value: &Value) -> Result<Option<u32>, ConfigError> {
        if value.as_i64() == Some(-1) {
            return Ok(None);
        }
        match whole(value).and_then(|id| u32::try_from(id).ok()) {
            Some(id) => Ok(Some(id)),
            None => Err(self.invalid(key, value, "token ids are whole numbers below 2^32")),
        }
    }
}

/// A whole number, also where it is written `8192.0`.
pub(crate) fn whole(value: &Value) -> Option<usize> {
    if let Some(number) = value.as_u64() {
        return usize::try_from(number).ok();
    }
    // Above 2^53 a float no longer holds every whole number.
    let exact = |number: &f64| number.fract() == 0.0 && (0.0..9.0e15).contains(number);
    value.as_f64().filter(exact).map(|number| number as usize)
}

/// The value as JSON, short enough for a message.
fn shown(value: &Value) -> String {
    const LONGEST: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
