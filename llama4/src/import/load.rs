use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Element, Tensor};

use super::checkpoint::Checkpoint;
use super::gguf;
use super::names::expected_tensors;
use super::plan::{Plan, PlannedTensor};
use super::report::{LoadProgress, LoadReport, WeightsForm};
use super::storage::Storage;
use super::{meta, recorders, records, snapshots};
use crate::Llama4ForCausalLM;
use crate::config::FoundWeights;
use crate::error::ImportError;
use crate::memory::{MemoryEstimate, MemoryOptions};
use crate::ops::{computes_in, shared};
use crate::quant::Quantization;

/// Files that burn-import reads unless told otherwise: its recorders hold all of a model on the host, twice, and in `f32`.
const RECORDER_BYTES: u64 = 1 << 30;

/// How weights are loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Type of the model's weights and activations; `None` is the backend's own float type. The file's type does not matter.
    pub dtype: Option<DType>,
    /// What reads them.
    pub loader: Loader,
    /// Most bytes of a tensor, where the device has such a limit: larger weights are held in several. `None` is no limit.
    pub largest_tensor: Option<u64>,
    /// Pack weights while they are loaded. `None` leaves what is quantised as it is, and floats as they are.
    pub quantization: Option<Quantization>,
}

/// What reads weights in Hugging Face's names, after the checks that are the same for all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Loader {
    /// The recorders for single files of up to 1 GiB without vision tensors that are loaded as `F32`; streamed otherwise.
    #[default]
    Auto,
    /// burn-import's recorders, for a single file that is loaded in the backend's own float type. All of the model is held on the host.
    Recorder,
    /// Tensor by tensor from mapped files, through burn-store. One tensor is held on the host.
    Streamed,
}

/// A model with its weights.
#[derive(Debug)]
pub struct Loaded<B: Backend> {
    /// The model.
    pub model: Llama4ForCausalLM<B>,
    /// What was read.
    pub report: LoadReport,
}

/// Moves every parameter to memory that its clones share.
struct Shared;

impl<B: Backend> ModuleMapper<B> for Shared {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        param.map(shared)
    }
}

impl Checkpoint {
    /// Load the model.
    ///
    /// First the headers of all files are read and compared with the model: every parameter exactly once, of the right shape, of a type
    /// that can be loaded, and nothing else but vision tensors. Only then are weights read.
    ///
    /// `progress` is called before each tensor and at the end (before and after the whole, where a recorder reads it);
    /// [`ControlFlow::Break`] stops loading.
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
        if !computes_in::<B>(device, dtype) {
            return Err(ImportError::BackendDtype { dtype, backend: B::name(device) });
        }
        let mut config = self.config.clone();
        let (model, mut report) = if self.form == WeightsForm::BurnRecord {
            // A record has no header to plan by; it is compared with the model once it is read.
            let report = self.survey()?;
            (self.at_once(report.bytes, &mut progress, || records::load(&config, &self.file, dtype, device))?, report)
        } else {
            let plan = self.plan()?;
            let found = FoundWeights {
                norm_dtype: plan.norm_dtype(),
                has_lm_head: !config.tie_word_embeddings,
                quantized: plan.is_quantised(),
            };
            config.finalize(&found)?;
            let place = self.source.place();
            let storage = Storage { dtype, quantization: options.quantization, own: self.own_layout()?.cloned() };
            let stream = |progress: &mut dyn FnMut(LoadProgress<'_>) -> ControlFlow<()>| {
                snapshots::load(&config, &plan, &storage, options.largest_tensor, place, device, progress)
            };
            let fits = |tensor: &PlannedTensor| {
                let values = tensor.expected.shape.iter().product::<usize>() as u64;
                options.largest_tensor.is_none_or(|largest| values * dtype.size() as u64 <= largest)
            };
            let plain = options.quantization.is_none() && !plan.is_quantised() && plan.tensors.iter().all(fits);
            let model = if self.uses_recorder::<B>(options.loader, dtype, plain, &plan)? {
                let recorded = self
                    .at_once(plan.bytes(), &mut progress, || recorders::load(&config, self.form, &self.file, device));
                match recorded {
                    // Files that burn-store cannot read although they are sound, such as pickles of protocol 4.
                    Err(ImportError::Loader { reason, .. }) if options.loader == Loader::Auto => {
                        tracing::debug!(file = %self.file.display(), reason, "burn-import gave up; streaming instead");
                        stream(&mut progress)?
                    }
                    recorded => recorded?,
                }
            } else {
                stream(&mut progress)?
            };
            (
                model,
                LoadReport {
                    kept_float: storage.kept_float(&plan),
                    requantised: storage.requantised(&plan),
                    ..self.planned(&plan)
                },
            )
        };
        let model = model.map(&mut Shared);
        report.elapsed = started.elapsed();
        tracing::info!(place = %self.source.place().display(), %report, "loaded");
        Ok(Loaded { model, report })
    }

    /// What [`load`](Self::load) would read, from the headers alone: everything is compared with the model, no weight is read. Of burn's
    /// records only the size is known.
    ///
    /// # Errors
    /// As [`load`](Self::load), as far as headers show it.
    pub fn survey(&self) -> Result<LoadReport, ImportError> {
        let started = Instant::now();
        let mut report = if self.form == WeightsForm::BurnRecord {
            let size = std::fs::metadata(&self.file);
            let bytes = size.map_err(|error| ImportError::Read { file: self.file.clone(), error })?.len();
            LoadReport {
                form: self.form,
                tensors: expected_tensors(&self.config).len(),
                bytes,
                skipped_vision: 0,
                dtypes: BTreeMap::new(),
                kept_float: Vec::new(),
                requantised: BTreeMap::new(),
                elapsed: Duration::ZERO,
            }
        } else {
            self.planned(&self.plan()?)
        };
        report.elapsed = started.elapsed();
        Ok(report)
    }

    /// What running this checkpoint takes, its weights as its files hold them where `options` leaves them so.
    ///
    /// # Errors
    /// As [`survey`](Self::survey).
    pub fn memory(&self, options: &MemoryOptions) -> Result<MemoryEstimate, ImportError> {
        let estimate = self.config.memory(options);
        if self.form == WeightsForm::BurnRecord {
            return Ok(estimate);
        }
        let own = self.own_layout()?.cloned();
        let storage = Storage { dtype: options.dtype, quantization: options.quantization, own };
        Ok(MemoryEstimate { weights: storage.bytes(&self.plan()?), ..estimate })
    }

    fn planned(&self, plan: &Plan) -> LoadReport {
        LoadReport {
            form: self.form,
            tensors: plan.tensors.len(),
            bytes: plan.bytes(),
            skipped_vision: plan.skipped_vision,
            dtypes: plan.dtypes(),
            kept_float: Vec::new(),
            requantised: BTreeMap::new(),
            elapsed: Duration::ZERO,
        }
    }

    /// Read all headers and compare them with the model.
    pub(super) fn plan(&self) -> Result<Plan, ImportError> {
        if let Some(gguf) = &self.gguf {
            return gguf::plan::plan(&self.config, gguf, self.source.place());
        }
        if self.form == WeightsForm::MetaRanks {
            return meta::plan(&self.config, meta::read(self.source.place())?, self.source.place());
        }
        let quantisation = self.config.quant_config.as_ref().map(ToString::to_string);
        Plan::new(&self.config, self.stored()?, self.source.place(), quantisation.as_deref())
    }

    fn uses_recorder<B: Backend>(
        &self,
        loader: Loader,
        dtype: DType,
        plain: bool,
        plan: &Plan,
    ) -> Result<bool, ImportError> {
        let single = matches!(self.form, WeightsForm::Safetensors | WeightsForm::PyTorch);
        let own = dtype == B::FloatElem::dtype();
        match loader {
            Loader::Streamed => Ok(false),
            Loader::Recorder if single && own && plain => Ok(true),
            Loader::Recorder => Err(ImportError::Loader {
                file: self.file.clone(),
                reason: format!("burn-import's recorders read single files of floats, as {:?}", B::FloatElem::dtype()),
            }),
            Loader::Auto => {
                let small = plan.bytes() <= RECORDER_BYTES && plan.skipped_vision == 0;
                Ok(single && own && plain && dtype == DType::F32 && small)
            }
        }
    }

    /// Run a loader that says nothing on its way.
    fn at_once<B: Backend>(
        &self,
        bytes_total: u64,
        progress: &mut dyn FnMut(LoadProgress<'_>) -> ControlFlow<()>,
        load: impl FnOnce() -> Result<Llama4ForCausalLM<B>, ImportError>,
    ) -> Result<Llama4ForCausalLM<B>, ImportError> {
        let name = &self.file.to_string_lossy();
        if progress(LoadProgress { bytes_done: 0, bytes_total, name }).is_break() {
            return Err(ImportError::Cancelled { bytes_done: 0, bytes_total });
        }
        let model = load()?;
        match progress(LoadProgress { bytes_done: bytes_total, bytes_total, name: "" }) {
            ControlFlow::Continue(()) => Ok(model),
            ControlFlow::Break(()) => Err(ImportError::Cancelled { bytes_done: bytes_total, bytes_total }),
        }
    }
}
