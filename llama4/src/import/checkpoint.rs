use std::path::PathBuf;

use super::files;
use super::report::WeightsForm;
use super::source::ModelSource;
use crate::Llama4Config;
use crate::config::{GenerationConfig, HfConfig};
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
}

impl Checkpoint {
    /// Read a checkpoint's configuration and find its weights.
    ///
    /// # Errors
    /// When the folder, its `config.json` or its weights are not there, or the configuration is wrong.
    pub fn open(source: impl Into<ModelSource>) -> Result<Self, ImportError> {
        let source = source.into();
        let (hf_config, form, file) = match &source {
            ModelSource::Directory(dir) => {
                if !dir.is_dir() {
                    return Err(ImportError::NoFolder { dir: dir.clone() });
                }
                let config = dir.join("config.json");
                if !config.exists() {
                    return Err(ImportError::NoConfig { dir: dir.clone() });
                }
                let hf_config = HfConfig::from_file(&config)?;
                let (form, file) = files::find(dir)?;
                (hf_config, form, file)
            }
            ModelSource::Embedded(files) => {
                let hf_config = HfConfig::from_slice(files.config_json)?;
                (hf_config, WeightsForm::Embedded, source.place().to_path_buf())
            }
        };
        let config = hf_config.to_model_config()?;
        let checkpoint = Self { source, hf_config, config, form, file };
        checkpoint.own_layout()?;
        Ok(checkpoint)
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
        Ok(match &self.source {
            ModelSource::Directory(dir) => GenerationConfig::from_file_if_present(dir.join("generation_config.json"))?,
            ModelSource::Embedded(files) => {
                files.generation_config_json.map(GenerationConfig::from_slice).transpose()?
            }
        })
    }

    /// The tokenizer, where there is one: work on ids goes without.
    ///
    /// # Errors
    /// When it is there and not valid, or there only in Meta's own format.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>, ImportError> {
        let tokenizer = match &self.source {
            ModelSource::Directory(dir) => match Tokenizer::from_dir(dir) {
                Err(TextError::NoTokenizer { .. }) => return Ok(None),
                tokenizer => Some(tokenizer?),
            },
            ModelSource::Embedded(files) => files.tokenizer_json.map(Tokenizer::from_bytes).transpose()?,
        };
        Ok(tokenizer)
    }

    /// The chat template, where the checkpoint brings one; [`ChatTemplate::default`] is Llama 4's.
    ///
    /// # Errors
    /// When it is there and not valid.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, ImportError> {
        Ok(match &self.source {
            ModelSource::Directory(dir) => ChatTemplate::from_dir(dir)?,
            ModelSource::Embedded(files) => {
                let new = |text| ChatTemplate::new("the embedded model's chat template", text);
                files.chat_template.map(new).transpose()?
            }
        })
    }
}
