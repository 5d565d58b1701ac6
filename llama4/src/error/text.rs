use std::path::PathBuf;

/// The error type of the `tokenizers` crate.
type Source = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong between text and ids: files of a tokenizer or a chat template, and their use.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file that could not be read.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A checkpoint directory without a tokenizer.
    #[error("{dir} has no tokenizer.json")]
    NoTokenizer {
        /// The directory.
        dir: PathBuf,
    },
    /// A checkpoint directory that has Meta's vocabulary only.
    #[error(
        "{dir} has Meta's tokenizer.model and no tokenizer.json; make one with `python3 \
         fixtures/make_real_tokenizer.py --model {dir}/tokenizer.model --output {dir}/tokenizer.json` (`cargo xtask \
         real-tokenizer` makes the same file from PyPI's llama-models) or save the tokenizer with transformers"
    )]
    OnlyTokenizerModel {
        /// The directory.
        dir: PathBuf,
    },
    /// A tokenizer file that is not one.
    #[error("{origin} is not a tokenizer.json")]
    Tokenizer {
        /// The file, or what the bytes are.
        origin: String,
        /// What the parser said.
        source: Source,
    },
    /// A file that is not JSON.
    #[error("{path} is not JSON")]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A JSON value of another kind than the field wants.
    #[error("{path}: expected {field} to be {expected}, found {found}")]
    Field {
        /// The file.
        path: PathBuf,
        /// Name of the field.
        field: &'static str,
        /// Kinds that are understood.
        expected: &'static str,
        /// The value found, shortened.
        found: String,
    },
    /// Several named templates, none of them for plain chat.
    #[error("{path} has the chat templates {names:?}, none of them named \"default\"")]
    NoDefaultTemplate {
        /// The file.
        path: PathBuf,
        /// Names found.
        names: Vec<String>,
    },
    /// A chat template that does not parse, or that refuses the conversation.
    #[error("{file}:{line}: {reason}")]
    Template {
        /// The template's file.
        file: String,
        /// Line of the template, from 1; 0 if unknown.
        line: usize,
        /// What the template or its engine said.
        reason: String,
    },
    /// A text that the tokenizer cannot encode.
    #[error("a text of {bytes} bytes cannot be encoded")]
    Encode {
        /// Length of the text.
        bytes: usize,
        /// What the tokenizer said.
        source: Source,
    },
    /// More white space in a row than the tokenizer's regular expressions can take.
    #[error("a run of {found} white space characters cannot be encoded, {limit} are the most")]
    Whitespace {
        /// Length of the run in characters.
        found: usize,
        /// The longest run that is cut rightly.
        limit: usize,
    },
    /// Ids that the tokenizer cannot decode.
    #[error("{count} ids cannot be decoded")]
    Decode {
        /// Number of ids.
        count: usize,
        /// What the tokenizer said.
        source: Source,
    },
}
