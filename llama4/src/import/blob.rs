use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

#[cfg(unix)]
use memmap2::Advice;
use memmap2::Mmap;

use crate::error::ImportError;

/// The bytes of a weights file: mapped, so that only what is read takes memory, or part of the program.
#[derive(Debug, Clone)]
pub(super) enum Blob {
    Mapped(Arc<Mmap>),
    Static(&'static [u8]),
    /// Memory that goes when the last tensor in it goes.
    #[cfg(feature = "fuzzing")]
    Shared(Arc<[u8]>),
}

impl Blob {
    /// Map a file for reading.
    pub(super) fn open(path: &Path) -> Result<Self, ImportError> {
        let failed = |error| ImportError::Read { file: path.to_path_buf(), error };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(failed(std::io::Error::other("not a regular file")));
        }
        // An empty file cannot be mapped on every system.
        if metadata.len() == 0 {
            return Ok(Self::Static(&[]));
        }
        // SAFETY: the map is read-only and private to this process. What remains is another process that cuts the file short
        // while it is read, which the system answers with a signal: the same that every reader of mapped checkpoints accepts.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        Ok(Self::Mapped(Arc::new(map)))
    }
}

impl Blob {
    /// Have the system read a range of the file ahead, in the background. Where it cannot be asked to, nothing is lost.
    pub(super) fn prefetch(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            let _ = map.advise_range(Advice::WillNeed, range.start, range.len());
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Read a range of the file into memory, now.
    pub(super) fn populate(&self, range: Range<usize>) {
        let Self::Mapped(map) = self else { return };
        #[cfg(target_os = "linux")]
        if map.advise_range(Advice::PopulateRead, range.start, range.len()).is_ok() {
            return;
        }
        self.prefetch(range.clone());
        // One byte of each page is enough.
        let touched = map[range].iter().step_by(4096).fold(0_u8, |all, byte| all ^ byte);
        std::hint::black_box(touched);
    }
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
            #[cfg(feature = "fuzzing")]
            Self::Shared(bytes) => bytes,
        }
    }
}
