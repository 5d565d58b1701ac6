use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use burn::module::{AutodiffModule, Module};
use burn::optim::Optimizer;
use burn::record::{DefaultFileRecorder, FullPrecisionSettings, Recorder};
use burn::tensor::backend::AutodiffBackend;
use serde::{Deserialize, Serialize};

use super::Recipe;

type FileRecorder = DefaultFileRecorder<FullPrecisionSettings>;

/// Files of the optimiser of the matrices and of that of the gains.
const OPTIMIZERS: [&str; 2] = ["optimizer", "optimizer-gains"];

/// Where a checkpoint stands.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State {
    /// Steps done.
    pub(super) step: usize,
    /// Seconds of training so far.
    pub(super) seconds: f64,
    /// The recipe it follows.
    pub(super) recipe: Recipe,
}

/// Folder of the latest checkpoint in `output`.
fn folder(output: &Path) -> PathBuf {
    output.join("checkpoint")
}

/// Replace the checkpoint in `output`. The new one is complete before the old one goes.
pub(super) fn save<B: AutodiffBackend, M: AutodiffModule<B>, O: Optimizer<M, B>>(
    output: &Path,
    model: &M,
    optimizers: &[O; 2],
    state: &State,
) -> Result<()> {
    let (fresh, place, old) = (output.join("checkpoint.new"), folder(output), output.join("checkpoint.old"));
    let _ = std::fs::remove_dir_all(&fresh);
    std::fs::create_dir_all(&fresh).with_context(|| format!("cannot create {}", fresh.display()))?;
    let recorder = FileRecorder::new();
    Module::<B>::save_file(model.clone(), fresh.join("model"), &recorder).context("cannot save the model")?;
    for (optimizer, name) in optimizers.iter().zip(OPTIMIZERS) {
        recorder.record(optimizer.to_record(), fresh.join(name)).context("cannot save the optimiser")?;
    }
    std::fs::write(fresh.join("state.json"), serde_json::to_vec_pretty(state)?).context("cannot save the state")?;
    let _ = std::fs::remove_dir_all(&old);
    if place.exists() {
        std::fs::rename(&place, &old).with_context(|| format!("cannot replace {}", place.display()))?;
    }
    std::fs::rename(&fresh, &place).with_context(|| format!("cannot replace {}", place.display()))?;
    let _ = std::fs::remove_dir_all(&old);
    Ok(())
}

/// Load the checkpoint in `output` into a model and an optimiser of the same shape.
pub(super) fn load<B: AutodiffBackend, M: AutodiffModule<B>, O: Optimizer<M, B>>(
    output: &Path,
    model: M,
    optimizers: [O; 2],
    recipe: &Recipe,
    device: &B::Device,
) -> Result<(M, [O; 2], State)> {
    let place = folder(output);
    let file = place.join("state.json");
    let text = std::fs::read(&file)
        .with_context(|| format!("no checkpoint to resume from: cannot read {}", file.display()))?;
    let state: State = serde_json::from_slice(&text).with_context(|| format!("{}", file.display()))?;
    ensure!(
        state.recipe == *recipe,
        "{} follows another recipe; resume with the same options\n  there: {:?}\n  here:  {recipe:?}",
        place.display(),
        state.recipe
    );
    let recorder = FileRecorder::new();
    let model =
        Module::<B>::load_file(model, place.join("model"), &recorder, device).context("cannot load the model")?;
    let mut resumed = Vec::new();
    for (optimizer, name) in optimizers.into_iter().zip(OPTIMIZERS) {
        let record = recorder.load(place.join(name), device).context("cannot load the optimiser")?;
        resumed.push(optimizer.load_record(record));
    }
    let optimizers = resumed.try_into().map_err(|_| anyhow::anyhow!("two optimisers"))?;
    Ok((model, optimizers, state))
}
