//! This library's own layout: Hugging Face's names in sharded safetensors, packed weights as `.qweight` and `.scales`, the rest as it
//! was, a checksum of every file.

use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::checkpoint::Checkpoint;
use super::report::LoadProgress;
use super::shards::{CHECKSUMS, hex};
use crate::config::QuantConfig;
use crate::error::ImportError;

/// Version of the layout that is written, and the newest that is read.
pub(super) const VERSION: usize = 1;

/// Bytes that are hashed between two reports.
const PIECE: usize = 8 << 20;

impl Checkpoint {
    /// How head and embedding are held, where this is our own layout.
    ///
    /// # Errors
    /// When it is a newer version of it.
    pub(super) fn own_layout(&self) -> Result<Option<&QuantConfig>, ImportError> {
        let own =
            self.config.quant_config.as_ref().filter(|quant| quant.method.as_deref() == Some(QuantConfig::OWN_METHOD));
        let Some(own) = own else { return Ok(None) };
        match own.version {
            Some(version) if (1..=VERSION).contains(&version) => Ok(Some(own)),
            version => Err(ImportError::LayoutVersion {
                file: self.hf_config.file().map_or_else(|| self.source.place().to_path_buf(), Path::to_path_buf),
                found: version,
                supported: VERSION,
            }),
        }
    }

    /// Compare every file with its checksum, where the checkpoint has some (`import` writes them): the number of files, `None` where it has
    /// none.
    ///
    /// # Errors
    /// When a file is missing or differs, the list cannot be read, or `progress` says to stop.
    pub fn verify(
        &self,
        mut progress: impl FnMut(LoadProgress<'_>) -> ControlFlow<()>,
    ) -> Result<Option<usize>, ImportError> {
        let Some(dir) = self.folder() else { return Ok(None) };
        let list = dir.join(CHECKSUMS);
        if !list.exists() {
            return Ok(None);
        }
        let unreadable = |file: &Path| {
            let file = file.to_path_buf();
            move |error| ImportError::Read { file, error }
        };
        let text = std::fs::read_to_string(&list).map_err(unreadable(&list))?;
        let mut files: Vec<(PathBuf, String)> = Vec::new();
        for line in text.lines() {
            let entry = line
                .split_once("  ")
                .filter(|(sum, name)| sum.len() == 64 && !name.is_empty() && Path::new(name).components().count() == 1);
            let Some((sum, name)) = entry else {
                let reason = format!("{line:?} is not a checksum and a file of this folder");
                return Err(ImportError::Corrupt { file: list, reason });
            };
            files.push((dir.join(name), sum.to_ascii_lowercase()));
        }
        let mut bytes_total = 0;
        for (file, _) in &files {
            bytes_total += std::fs::metadata(file).map_err(unreadable(file))?.len();
        }
        let mut bytes_done = 0;
        let mut buffer = vec![0; PIECE];
        for (file, expected) in &files {
            let name = file.to_string_lossy();
            let mut hash = Sha256::new();
            let mut open = File::open(file).map_err(unreadable(file))?;
            loop {
                if progress(LoadProgress { bytes_done, bytes_total, name: &name }).is_break() {
                    return Err(ImportError::Cancelled { bytes_done, bytes_total });
                }
                let read = open.read(&mut buffer).map_err(unreadable(file))?;
                if read == 0 {
                    break;
                }
                hash.update(&buffer[..read]);
                bytes_done += read as u64;
            }
            let found = hex(&hash.finalize());
            if found != *expected {
                let reason = format!("its SHA-256 is {found}, {} says {expected}", list.display());
                return Err(ImportError::Corrupt { file: file.clone(), reason });
            }
        }
        Ok(Some(files.len()))
    }
}
