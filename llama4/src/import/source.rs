use std::path::{Path, PathBuf};

/// Where a model comes from.
#[derive(Debug, Clone)]
pub enum ModelSource {
    /// A folder: `config.json`, weights in any form, and what belongs to its text; or a GGUF file.
    Directory(PathBuf),
    /// Files that are part of the program (`include_bytes!`), so that it runs from anywhere.
    Embedded(EmbeddedModel),
}

/// The files of a checkpoint, in memory.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddedModel {
    /// `config.json`.
    pub config_json: &'static [u8],
    /// The weights as one safetensors file.
    pub weights: &'static [u8],
    /// `generation_config.json`.
    pub generation_config_json: Option<&'static [u8]>,
    /// `tokenizer.json`.
    pub tokenizer_json: Option<&'static [u8]>,
    /// The chat template's text.
    pub chat_template: Option<&'static str>,
}

impl ModelSource {
    /// The folder, or a word for files in memory: how messages name the source.
    pub fn place(&self) -> &Path {
        match self {
            Self::Directory(dir) => dir,
            Self::Embedded(_) => Path::new("the embedded model"),
        }
    }
}

impl From<PathBuf> for ModelSource {
    fn from(dir: PathBuf) -> Self {
        Self::Directory(dir)
    }
}

impl From<&Path> for ModelSource {
    fn from(dir: &Path) -> Self {
        Self::Directory(dir.to_path_buf())
    }
}

impl From<EmbeddedModel> for ModelSource {
    fn from(files: EmbeddedModel) -> Self {
        Self::Embedded(files)
    }
}
