//! Files and folders that appear whole or not at all: written under another name, renamed at the end.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The lock that tells a folder somebody is working on from one that was left behind.
const LOCK: &str = ".lock";

/// A folder under construction. It is gone when this is dropped, unless it was [finished](Self::finish).
#[derive(Debug)]
pub(super) struct UnfinishedFolder {
    place: PathBuf,
    target: PathBuf,
    lock: Option<File>,
}

impl UnfinishedFolder {
    /// Begin a folder that will be `target`. What earlier attempts at the same target left behind, and nobody is working on, is removed.
    pub(super) fn create(target: &Path) -> io::Result<Self> {
        let name = target.file_name().ok_or_else(|| io::Error::other("not the name of a folder"))?.to_string_lossy();
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent)?;
        let (prefix, suffix) = (format!(".{name}."), ".unfinished");
        for entry in fs::read_dir(parent)? {
            let entry = entry?;
            let found = entry.file_name();
            let found = found.to_string_lossy();
            if found.starts_with(&prefix) && found.ends_with(suffix) {
                remove_if_abandoned(&entry.path());
            }
        }
        let place = parent.join(format!("{prefix}{}{suffix}", std::process::id()));
        fs::create_dir(&place)?;
        // From here on the folder goes away when something fails.
        let mut folder = Self { place, target: target.to_path_buf(), lock: None };
        let lock = File::create(folder.place.join(LOCK))?;
        // Where locks are not to be had, an abandoned folder stays until somebody removes it.
        let _ = lock.try_lock();
        folder.lock = Some(lock);
        Ok(folder)
    }

    /// Where to put files for now.
    pub(super) fn path(&self) -> &Path {
        &self.place
    }

    /// Give the folder its name. An empty folder of that name may be there, and any other if `replace` says so.
    pub(super) fn finish(mut self, replace: bool) -> io::Result<()> {
        self.lock = None;
        fs::remove_file(self.place.join(LOCK))?;
        // The names of the files are on disk before the folder's is.
        #[cfg(unix)]
        File::open(&self.place)?.sync_all()?;
        if replace && self.target.exists() {
            let old = self.place.with_extension("replaced");
            fs::rename(&self.target, &old)?;
            if let Err(error) = fs::rename(&self.place, &self.target) {
                fs::rename(&old, &self.target)?;
                return Err(error);
            }
            return fs::remove_dir_all(old);
        }
        fs::rename(&self.place, &self.target)
    }
}

impl Drop for UnfinishedFolder {
    fn drop(&mut self) {
        self.lock = None;
        // It is gone once it is finished, and there is nobody to tell otherwise.
        let _ = fs::remove_dir_all(&self.place);
    }
}

fn remove_if_abandoned(folder: &Path) {
    let abandoned = match File::open(folder.join(LOCK)) {
        Ok(lock) => lock.try_lock().is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if abandoned {
        tracing::debug!(folder = %folder.display(), "removing what an interrupted run left behind");
        let _ = fs::remove_dir_all(folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_appears_when_it_is_finished_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        let folder = UnfinishedFolder::create(&target).unwrap();
        fs::write(folder.path().join("a"), "1").unwrap();
        assert!(!target.exists());
        folder.finish(false).unwrap();
        assert_eq!(names(dir.path()), ["out"]);
        assert_eq!(names(&target), ["a"]);
    }

    #[test]
    fn a_full_folder_is_replaced_only_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("old"), "1").unwrap();
        assert!(UnfinishedFolder::create(&target).unwrap().finish(false).is_err());
        assert_eq!(names(&target), ["old"]);
        UnfinishedFolder::create(&target).unwrap().finish(true).unwrap();
        assert_eq!(names(&target), Vec::<String>::new());
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[test]
    fn what_was_left_behind_is_removed_and_what_is_in_use_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        let left = dir.path().join(".out.1.unfinished");
        fs::create_dir(&left).unwrap();
        fs::write(left.join(LOCK), "").unwrap();
        let used = dir.path().join(".out.2.unfinished");
        fs::create_dir(&used).unwrap();
        let lock = File::create(used.join(LOCK)).unwrap();
        lock.try_lock().unwrap();
        drop(UnfinishedFolder::create(&target).unwrap());
        assert_eq!(names(dir.path()), [".out.2.unfinished"]);
    }
}
