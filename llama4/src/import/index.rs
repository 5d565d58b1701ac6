use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Component, Path};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::blob::Blob;
use super::stored::StoredTensor;
use crate::error::ImportError;

/// A shard index: which file holds which tensor.
#[derive(Deserialize)]
pub(super) struct Index {
    #[serde(deserialize_with = "each_once")]
    weight_map: BTreeMap<String, String>,
}

/// A map of its own would keep the last of two entries with the same name and hide the other.
fn each_once<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Entries;

    impl<'de> Visitor<'de> for Entries {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object with the file of each tensor")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut entries = BTreeMap::new();
            while let Some((tensor, file)) = map.next_entry::<String, String>()? {
                if entries.contains_key(&tensor) {
                    return Err(serde::de::Error::custom(format!("{tensor} is listed twice")));
                }
                entries.insert(tensor, file);
            }
            Ok(entries)
        }
    }

    deserializer.deserialize_map(Entries)
}

/// Every tensor of the shards that an index names, each listed by `read_shard`.
///
/// The index and the shards must agree: each tensor in the file that the index gives for it, and no other one in them.
pub(super) fn read(
    file: &Path,
    read_shard: impl Fn(&Blob, &Arc<Path>) -> Result<Vec<StoredTensor>, ImportError>,
) -> Result<Vec<StoredTensor>, ImportError> {
    let text = std::fs::read(file).map_err(|error| ImportError::Read { file: file.to_path_buf(), error })?;
    let index = Index::parse(&text, file)?;
    let dir = file.parent().unwrap_or(Path::new(""));
    let shards = index.shards();

    // All of them, before any is read: a download that is not finished is what is wrong most often.
    for (shard, listed) in &shards {
        let path = dir.join(shard);
        if !path.exists() {
            let tensor = listed.iter().min().map(|name| name.to_string()).unwrap_or_default();
            return Err(ImportError::ShardMissing { index: file.to_path_buf(), tensor, shard: path });
        }
    }

    let mut tensors = Vec::new();
    for (shard, listed) in shards {
        let path: Arc<Path> = dir.join(shard).into();
        let held = read_shard(&Blob::open(&path)?, &path)?;
        let names: HashSet<&str> = held.iter().map(|tensor| tensor.name.as_str()).collect();
        index.compare(shard, &listed, &names, file)?;
        tensors.extend(held);
    }
    Ok(tensors)
}

impl Index {
    /// The text of an index. `file` is for messages.
    pub(super) fn parse(text: &[u8], file: &Path) -> Result<Self, ImportError> {
        let invalid = |reason| ImportError::Index { file: file.to_path_buf(), reason };
        let index: Self =
            serde_json::from_slice(text).map_err(|error| invalid(format!("not a valid shard index: {error}")))?;
        if index.weight_map.is_empty() {
            return Err(invalid("its weight_map is empty".to_string()));
        }
        for (tensor, shard) in &index.weight_map {
            // A name that leads out of the folder would let a checkpoint read any file.
            let mut components = Path::new(shard).components();
            if !matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)) {
                return Err(invalid(format!("{tensor} is put in {shard:?}, which is not a file of the same folder")));
            }
        }
        Ok(index)
    }

    /// The shards, each with the tensors that it should hold.
    pub(super) fn shards(&self) -> BTreeMap<&str, HashSet<&str>> {
        let mut shards: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
        for (tensor, shard) in &self.weight_map {
            shards.entry(shard).or_default().insert(tensor);
        }
        shards
    }

    /// Compare the tensors that a shard should hold with those that it does.
    pub(super) fn compare(
        &self,
        shard: &str,
        listed: &HashSet<&str>,
        held: &HashSet<&str>,
        file: &Path,
    ) -> Result<(), ImportError> {
        let content = |tensor: &str, expected: Option<&str>, found: Option<&str>| {
            Err(ImportError::ShardContent {
                index: file.to_path_buf(),
                tensor: tensor.to_string(),
                expected: expected.map(str::to_owned),
                found: found.map(str::to_owned),
            })
        };
        if let Some(stray) = held.difference(listed).min() {
            return content(stray, self.weight_map.get(*stray).map(String::as_str), Some(shard));
        }
        match listed.difference(held).min() {
            Some(absent) => content(absent, Some(shard), None),
            None => Ok(()),
        }
    }
}
