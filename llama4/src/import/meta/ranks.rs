use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::blob::Blob;
use super::super::pytorch;
use super::super::stored::StoredTensor;
use crate::error::ImportError;

/// Prefixes of the vision half.
const VISION: [&str; 2] = ["vision_embeddings.", "vision_projection."];

/// Last parts of the names of tensors that were of use in training only.
const UNUSED: [&str; 3] = ["global_gate_stats_3E", "running_gate_stats_3E", "expert_activation_DE"];

/// One of the files that the model was parted among.
pub(in crate::import) struct Rank {
    pub(super) file: Arc<Path>,
    /// What it holds, but for what no model has a place for.
    pub(in crate::import) tensors: Vec<StoredTensor>,
}

/// The files of all ranks of a folder, in order; none where it has no such files.
pub(in crate::import) fn files(dir: &Path) -> Result<Vec<PathBuf>, ImportError> {
    let unreadable = |error| ImportError::Read { file: dir.to_path_buf(), error };
    let mut ranks = BTreeSet::new();
    let (mut only, mut stray, mut scales) = (None, None, None);
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let Some(name) = name.to_str() else { continue };
        if ["fp8_scales_", "int4_scales_"].iter().any(|prefix| name.starts_with(prefix)) {
            scales = Some(name.to_string());
        } else if name == "consolidated.pth" {
            only = Some(dir.join(name));
        } else if let Some(rank) = name.strip_prefix("consolidated.").and_then(|name| name.strip_suffix(".pth")) {
            match rank.parse().ok().filter(|&rank| file_name(rank) == name) {
                Some(rank) => drop(ranks.insert(rank)),
                None => stray = Some(dir.join(name)),
            }
        }
    }
    let invalid = |file: PathBuf, reason: String| Err(ImportError::Index { file, reason });
    if let Some(file) = stray {
        return invalid(file, format!("ranks are named {}, {} and so on; this is neither", file_name(0), file_name(1)));
    }
    let Some(&last) = ranks.last() else { return Ok(only.into_iter().collect()) };
    if let Some(absent) = (0..).zip(&ranks).find_map(|(index, &rank)| (index != rank).then_some(index)) {
        let reason = format!("it is not there, but {} is: every rank holds a part of each weight", file_name(last));
        return invalid(dir.join(file_name(absent)), reason);
    }
    if let Some(scales) = scales {
        let what = format!("quantised weights in Meta's own layout ({scales}; Hugging Face's FP8 files can be read)");
        return Err(ImportError::Unsupported { place: dir.to_path_buf(), what });
    }
    Ok(ranks.into_iter().map(|rank| dir.join(file_name(rank))).collect())
}

fn file_name(rank: usize) -> String {
    format!("consolidated.{rank:02}.pth")
}

/// What the files of all ranks list.
pub(in crate::import) fn read(dir: &Path) -> Result<Vec<Rank>, ImportError> {
    files(dir)?.iter().map(|file| read_rank(file)).collect()
}

/// What the file of a rank lists.
pub(super) fn read_rank(file: &Path) -> Result<Rank, ImportError> {
    let file: Arc<Path> = file.into();
    let wanted = |name: &str| !is_vision(name) && !is_unused(name);
    let mut tensors = pytorch::read_wanted(&Blob::open(&file)?, &file, wanted)?;
    tensors.retain(|tensor| !is_unused(&tensor.name));
    Ok(Rank { file, tensors })
}

/// Whether a tensor belongs to the vision half, which is skipped.
pub(super) fn is_vision(name: &str) -> bool {
    VISION.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether a tensor is none of the model's: statistics of the training, the state of a module beside its weights (mostly a buffer of bytes,
/// which is not even listed), and frequencies, which are computed.
fn is_unused(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    UNUSED.contains(&last) || last.ends_with("_extra_state") || name == "rope.freqs" || name.ends_with(".rope.freqs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_model_has_a_place_for_is_told_by_the_end_of_its_name() {
        for name in [
            "rope.freqs",
            "layers.0.attention.wqkv._extra_state",
            "layers.1.feed_forward.mlp_extra_state",
            "layers.3.feed_forward.global_gate_stats_3E",
            "layers.3.feed_forward.running_gate_stats_3E",
            "layers.3.feed_forward.expert_activation_DE",
        ] {
            assert!(is_unused(name), "{name}");
        }
        for name in ["layers.0.attention.wqkv.weight", "freqs", "_extra_state.weight", "norm.weight"] {
            assert!(!is_unused(name), "{name}");
        }
    }

    #[test]
    fn ranks_are_in_the_order_of_their_numbers_and_all_there() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str| std::fs::write(dir.path().join(name), "").unwrap();
        let files = || {
            let files = files(dir.path()).map_err(|error| error.to_string())?;
            Ok::<_, String>(files.iter().map(|file| file.file_name().unwrap().to_owned()).collect::<Vec<_>>())
        };
        for name in ["a.pth", "consolidated.00.safetensors", "fp8_scales_0.pt"] {
            put(name);
        }
        assert!(files().unwrap().is_empty());
        std::fs::remove_file(dir.path().join("fp8_scales_0.pt")).unwrap();

        put("consolidated.pth");
        assert_eq!(files().unwrap(), ["consolidated.pth"]);
        (0..102).rev().for_each(|rank| put(&file_name(rank)));
        let found = files().unwrap();
        assert_eq!(
            (found.len(), &found[9], &found[101]),
            (102, &"consolidated.09.pth".into(), &"consolidated.101.pth".into())
        );

        std::fs::remove_file(dir.path().join("consolidated.07.pth")).unwrap();
        let error = files().unwrap_err();
        assert!(error.contains("consolidated.07.pth: it is not there, but consolidated.101.pth is"), "{error}");
        put("consolidated.7.pth");
        let error = files().unwrap_err();
        assert!(error.contains("consolidated.7.pth: ranks are named consolidated.00.pth"), "{error}");
    }
}
