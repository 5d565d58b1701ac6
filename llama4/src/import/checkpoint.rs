use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Element};

use super::blob::Blob;
use super::plan::Plan;
use super::report::{LoadProgress, LoadReport, WeightsForm};
use super::source::ModelSource;
use super::{header, index, snapshots};
use crate::config::HfConfig;
use crate::error::ImportError;
use crate::{Llama4Config, Llama4ForCausalLM};

const CONFIG: &str = "config.json";
const SHARD_INDEX: &str = "model.safetensors.index.json";
const SAFETENSORS: &str = "model.safetensors";

/// How weights are loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Type of the model's weights and activations; `None` is the backend's own float type. The file's type does not matter.
    pub dtype: Option<DType>,
}

/// A model with its weights.
#[derive(Debug)]
pub struct Loaded<B: Backend> {
    /// The model.
    pub model: Llama4ForCausalLM<B>,
    /// What was read.
    pub report: LoadReport,
}

/// A checkpoint whose configuration is read and whose weights are found, but not read yet.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    source: ModelSource,
    hf_config: HfConfig,
    config: Llama4Config,
    form: WeightsForm,
    /// The file to start from: weights or index.
    file: PathBuf,
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
                let config = dir.join(CONFIG);
                if !config.exists() {
                    return Err(ImportError::NoConfig { dir: dir.clone() });
                }
                let hf_config = HfConfig::from_file(&config)?;
                let (form, file) = find_weights(dir)?;
                (hf_config, form, file)
            }
            ModelSource::Embedded(files) => {
                let file = source.place().join(SAFETENSORS);
                (HfConfig::from_slice(files.config_json)?, WeightsForm::Embedded, file)
            }
        };
        let config = hf_config.to_model_config()?;
        Ok(Self { source, hf_config, config, form, file })
    }

    /// What the model is.
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

    /// Load the model.
    ///
    /// First the headers of all files are read and compared with the model: every parameter exactly once, of the right shape, of a type
    /// that can be loaded, and nothing else but vision tensors. Only then are weights read.
    ///
    /// `progress` is called before each tensor and at the end; [`ControlFlow::Break`] stops loading.
    ///
    /// # Errors
    /// When anything is missing, misshapen, of the wrong type, left over or damaged. The error names it and its file.
    pub fn load<B: Backend>(
        &self,
        options: &LoadOptions,
        device: &B::Device,
        mut progress: impl FnMut(LoadProgress<'_>) -> ControlFlow<()>,
    ) -> Result<Loaded<B>, ImportError> {
        let started = Instant::now();
        let dtype = options.dtype.unwrap_or(B::FloatElem::dtype());
        if !dtype.is_float() || !B::supports_dtype(device, dtype) {
            return Err(ImportError::BackendDtype { dtype, backend: B::name(device) });
        }
        let plan = self.plan()?;
        let mut config = self.config.clone();
        config.norm_dtype = plan.norm_dtype();
        let model = snapshots::load(&config, &plan, self.source.place(), dtype, device, &mut progress)?;
        let report = LoadReport {
            form: self.form,
            tensors: plan.tensors.len(),
            bytes: plan.bytes(),
            skipped_vision: plan.skipped_vision,
            dtypes: plan.dtypes(),
            elapsed: started.elapsed(),
        };
        Ok(Loaded { model, report })
    }

    /// Read all headers and compare them with the model.
    fn plan(&self) -> Result<Plan, ImportError> {
        let file: Arc<Path> = self.file.clone().into();
        let stored = match (&self.source, self.form) {
            (ModelSource::Embedded(files), _) => header::read(&Blob::Static(files.weights), &file)?,
            (_, WeightsForm::ShardedSafetensors) => index::read(&file)?,
            _ => header::read(&Blob::open(&file)?, &file)?,
        };
        let quantisation = self.config.quant_config.as_ref().map(ToString::to_string);
        Plan::new(&self.config, stored, self.source.place(), quantisation.as_deref())
    }
}

/// The weights of a folder: the first form that is there.
fn find_weights(dir: &Path) -> Result<(WeightsForm, PathBuf), ImportError> {
    let forms = [(SHARD_INDEX, WeightsForm::ShardedSafetensors), (SAFETENSORS, WeightsForm::Safetensors)];
    for (name, form) in forms {
        let file = dir.join(name);
        if file.exists() {
            return Ok((form, file));
        }
    }
    let looked_for = forms.iter().map(|(name, _)| name.to_string()).collect();
    Err(ImportError::NoWeights { dir: dir.to_path_buf(), looked_for })
}
