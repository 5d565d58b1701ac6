use std::collections::{BTreeMap, HashSet};
use std::path::{Component, Path};
use std::sync::Arc;

use serde::Deserialize;

use super::blob::Blob;
use super::stored::StoredTensor;
use crate::error::ImportError;

/// A shard index: which file holds which tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Every tensor of the shards that an index names, each listed by `read_shard`.
///
/// The index and the shards must agree: each tensor in the file that the index gives for it, and no other one in them.
pub(super) fn read(
    index: &Path,
    read_shard: impl Fn(&Blob, &Arc<Path>) -> Result<Vec<StoredTensor>, ImportError>,
) -> Result<Vec<StoredTensor>, ImportError> {
    let text = std::fs::read(index).map_err(|error| ImportError::Read { file: index.to_path_buf(), error })?;
    let invalid = |reason| ImportError::Index { file: index.to_path_buf(), reason };
    let Index { weight_map } =
        serde_json::from_slice(&text).map_err(|error| invalid(format!("not a valid shard index: {error}")))?;
    if weight_map.is_empty() {
        return Err(invalid("its weight_map is empty".to_string()));
    }
    let dir = index.parent().unwrap_or(Path::new(""));

    let mut shards: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
    for (tensor, shard) in &weight_map {
        // A name that leads out of the folder would let a checkpoint read any file.
        let mut components = Path::new(shard).components();
        if !matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)) {
            return Err(invalid(format!("{tensor} is put in {shard:?}, which is not a file of the same folder")));
        }
        shards.entry(shard).or_default().insert(tensor);
    }

    // All of them, before any is read: a download that is not finished is what is wrong most often.
    for (shard, listed) in &shards {
        let path = dir.join(shard);
        if !path.exists() {
            let tensor = listed.iter().min().map(|name| name.to_string()).unwrap_or_default();
            return Err(ImportError::ShardMissing { index: index.to_path_buf(), tensor, shard: path });
        }
    }

    let mut tensors = Vec::new();
    for (shard, listed) in shards {
        let file: Arc<Path> = dir.join(shard).into();
        let held = read_shard(&Blob::open(&file)?, &file)?;
        let content = |tensor: &str, expected: Option<&str>, found: Option<&str>| ImportError::ShardContent {
            index: index.to_path_buf(),
            tensor: tensor.to_string(),
            expected: expected.map(str::to_owned),
            found: found.map(str::to_owned),
        };
        for tensor in &held {
            match weight_map.get(&tensor.name) {
                Some(expected) if expected == shard => {}
                Some(expected) => return Err(content(&tensor.name, Some(expected), Some(shard))),
                None => return Err(content(&tensor.name, None, Some(shard))),
            }
        }
        let names: HashSet<&str> = held.iter().map(|tensor| tensor.name.as_str()).collect();
        if let Some(absent) = listed.difference(&names).min() {
            return Err(content(absent, Some(shard), None));
        }
        tensors.extend(held);
    }
    Ok(tensors)
}
