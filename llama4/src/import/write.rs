use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::ImportError;

/// Write a file under another name and rename it: who reads it sees the old one or the new one, whole.
pub(super) fn write_file(
    file: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), ImportError> {
    let failed = |error| ImportError::Write { file: file.to_path_buf(), error };
    let Some(name) = file.file_name() else {
        return Err(failed(std::io::Error::other("not the name of a file")));
    };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed)?;
    let unfinished = Unfinished(folder.join(format!(".{}.{}.unfinished", name.to_string_lossy(), std::process::id())));
    let written = || -> std::io::Result<()> {
        let mut out = BufWriter::new(File::create(&unfinished.0)?);
        write(&mut out)?;
        out.flush()?;
        out.get_ref().sync_all()?;
        fs::rename(&unfinished.0, file)
    };
    written().map_err(failed)
}

/// A file that goes away unless it was renamed.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // It is gone after a rename, and there is nobody to tell otherwise.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        write_file(&file, |out| out.write_all(b"old")).unwrap();
        let error = write_file(&file, |out| {
            out.write_all(b"new")?;
            Err(std::io::Error::other("disk full"))
        });
        assert!(error.unwrap_err().to_string().contains("disk full"));
        assert_eq!(fs::read(&file).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
