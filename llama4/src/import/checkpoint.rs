use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::gguf::file::GgufFile;
use super::report::WeightsForm;
use super::source::ModelSource;
use super::{files, gguf, meta};
use crate::Llama4Config;
use crate::config::{GenerationConfig, HfConfig, QuantConfig};
use crate::error::{ImportError, TextError};
use crate::text::{ChatTemplate, Tokenizer};

/// A checkpoint whose configuration is read and whose weights are found, but not read yet.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub(super) source: ModelSource,
    pub(super) hf_config: HfConfig,
    pub(super) config: Llama4Config,
    pub(super) form: WeightsForm,
    /// The file to start from: weights, or the index of their shards.
    pub(super) file: PathBuf,
    /// Its header, where it is a GGUF file.
    pub(super) gguf: Option<Arc<GgufFile>>,
}

impl Checkpoint {
    /// Read a checkpoint's configuration and find its weights.
    ///
    /// # Errors
    /// When the folder, its `config.json` (`params.json` beside Meta's ranks) or its weights are not there, or the configuration is wrong.
    pub fn open(source: impl Into<ModelSource>) -> Result<Self, ImportError> {
        let source = source.into();
        let (hf_config, form, file) = match &source {
            ModelSource::Directory(file) if files::is_gguf(file) => return Self::open_gguf(source.clone(), file),
            ModelSource::Directory(dir) => {
                if let Some(file) = files::lone_gguf(dir) {
                    return Self::open_gguf(source.clone(), &file);
                }
                if !dir.is_dir() {
                    return Err(ImportError::NoFolder { dir: dir.clone() });
                }
                let config = dir.join("config.json");
                let has_config = config.exists();
                if !has_config && meta::files(dir)?.is_empty() {
                    return Err(ImportError::NoConfig { dir: dir.clone() });
                }
                let hf_config = has_config.then(|| HfConfig::from_file(&config)).transpose()?;
                let (form, file) = files::find(dir)?;
                let hf_config = match hf_config {
                    Some(hf_config) => hf_config,
                    None if form == WeightsForm::MetaRanks => meta::read_config(dir)?,
                    None => return Err(ImportError::NoConfig { dir: dir.clone() }),
                };
                (hf_config, form, file)
            }
            ModelSource::Embedded(files) => {
                let hf_config = HfConfig::from_slice(files.config_json)?;
                (hf_config, WeightsForm::Embedded, source.place().to_path_buf())
            }
        };
        let config = hf_config.to_model_config()?;
        let checkpoint = Self { source, hf_config, config, form, file, gguf: None };
        checkpoint.own_layout()?;
        Ok(checkpoint)
    }

    /// A GGUF file: configuration and tokenizer are its own where no files of Hugging Face's lie beside it.
    fn open_gguf(source: ModelSource, path: &Path) -> Result<Self, ImportError> {
        let gguf = gguf::split::read_all(path)?;
        let beside = path.with_file_name("config.json");
        let hf_config = match beside.is_file() {
            true => HfConfig::from_file(beside)?,
            false => HfConfig::from_json(&gguf::config::hf_config(&gguf)?.to_string())?,
        };
        let mut config = hf_config.to_model_config()?;
        config.quant_config =
            Some(QuantConfig { method: Some("gguf".to_string()), ..config.quant_config.unwrap_or_default() });
        let (form, file) = (WeightsForm::Gguf, path.to_path_buf());
        Ok(Self { source, hf_config, config, form, file, gguf: Some(Arc::new(gguf)) })
    }

    /// The folder that its files are in; of a GGUF file that is the folder around it.
    pub(super) fn folder(&self) -> Option<&Path> {
        match &self.source {
            ModelSource::Directory(_) if self.form == WeightsForm::Gguf => {
                let around = self.file.parent().filter(|folder| !folder.as_os_str().is_empty());
                Some(around.unwrap_or(Path::new(".")))
            }
            ModelSource::Directory(dir) => Some(dir),
            ModelSource::Embedded(_) => None,
        }
    }

    /// Where it is.
    pub fn source(&self) -> &ModelSource {
        &self.source
    }

    /// What the model is, as its configuration says.
    pub fn config(&self) -> &Llama4Config {
        &self.config
    }

    /// The configuration as found.
    pub fn hf_config(&self) -> &HfConfig {
        &self.hf_config
    }

    /// The form of the weights.
    pub fn form(&self) -> WeightsForm {
        self.form
    }

    /// `generation_config.json`, where there is one.
    ///
    /// # Errors
    /// When it is there and not valid.
    pub fn generation_config(&self) -> Result<Option<GenerationConfig>, ImportError> {
        if let Some(folder) = self.folder() {
            return Ok(GenerationConfig::from_file_if_present(folder.join("generation_config.json"))?);
        }
        match &self.source {
            ModelSource::Embedded(files) => {
                Ok(files.generation_config_json.map(GenerationConfig::from_slice).transpose()?)
            }
            ModelSource::Directory(_) => Ok(None),
        }
    }

    /// The tokenizer, where there is one: work on ids goes without.
    ///
    /// # Errors
    /// When it is there and not valid, or there only in Meta's own format.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>, ImportError> {
        match self.folder().map(Tokenizer::from_dir) {
            None | Some(Err(TextError::NoTokenizer { .. })) => {}
            Some(tokenizer) => return Ok(Some(tokenizer?)),
        }
        let json = self.tokenizer_json()?;
        Ok(json.map(|json| Tokenizer::from_bytes(&json)).transpose()?)
    }

    /// The `tokenizer.json` that is part of the weights' file or of the program.
    pub(super) fn tokenizer_json(&self) -> Result<Option<Vec<u8>>, ImportError> {
        match (&self.gguf, &self.source) {
            (Some(gguf), _) => gguf::tokenizer::tokenizer_json(gguf),
            (None, ModelSource::Embedded(files)) => Ok(files.tokenizer_json.map(<[u8]>::to_vec)),
            (None, ModelSource::Directory(_)) => Ok(None),
        }
    }

    /// The chat template, where the checkpoint brings one; [`ChatTemplate::default`] is Llama 4's.
    ///
    /// # Errors
    /// When it is there and not valid.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, ImportError> {
        if let Some(folder) = self.folder()
            && let Some(template) = ChatTemplate::from_dir(folder)?
        {
            return Ok(Some(template));
        }
        let text = self.chat_template_text()?;
        let name = format!("the chat template of {}", self.source.place().display());
        Ok(text.map(|text| ChatTemplate::new(&name, &text)).transpose()?)
    }

    /// The chat template that is part of the weights' file or of the program.
    pub(super) fn chat_template_text(&self) -> Result<Option<String>, ImportError> {
        match (&self.gguf, &self.source) {
            (Some(gguf), _) => gguf::tokenizer::chat_template(gguf),
            (None, ModelSource::Embedded(files)) => Ok(files.chat_template.map(str::to_owned)),
            (None, ModelSource::Directory(_)) => Ok(None),
        }
    }
}
