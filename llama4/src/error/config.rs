use std::path::PathBuf;

/// What can be wrong with a `config.json`, a configuration made by hand, or a wish about how to run the model.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or cannot be read.
    #[error("cannot read {}: {error}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The text is not a JSON object.
    #[error("not a JSON object: {error}")]
    Json {
        /// What is wrong, and in which line and column.
        error: serde_json::Error,
    },
    /// An error in the content of a file.
    #[error("{}: {error}", file.display())]
    InFile {
        /// The file.
        file: PathBuf,
        /// What is wrong in it.
        error: Box<ConfigError>,
    },
    /// A key that has no default is absent.
    #[error("`{field}` is missing; it has no default")]
    Missing {
        /// The key, with the keys it is under.
        field: String,
    },
    /// A value that breaks a rule.
    #[error("`{field}` is {value}, but {rule}")]
    Invalid {
        /// The field, with the keys it is under.
        field: String,
        /// Its value, as found.
        value: String,
        /// The rule it breaks, with the operands.
        rule: String,
    },
    /// A value with a meaning that is not implemented.
    #[error("`{field}` is {value}, which is not supported; supported: {supported}")]
    Unsupported {
        /// The field, with the keys it is under.
        field: String,
        /// Its value, as found.
        value: String,
        /// What can be used instead.
        supported: String,
    },
}

impl ConfigError {
    pub(crate) fn missing(field: impl Into<String>) -> Self {
        Self::Missing { field: field.into() }
    }

    pub(crate) fn invalid(field: impl Into<String>, value: impl ToString, rule: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), value: value.to_string(), rule: rule.into() }
    }

    pub(crate) fn unsupported(field: impl Into<String>, value: impl ToString, supported: impl Into<String>) -> Self {
        Self::Unsupported { field: field.into(), value: value.to_string(), supported: supported.into() }
    }

    pub(crate) fn in_file(self, file: impl Into<PathBuf>) -> Self {
        Self::InFile { file: file.into(), error: Box::new(self) }
    }
}
