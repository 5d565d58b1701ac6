use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::matrix::Matrix;

/// Bytes that are read ahead of what is being converted.
const AHEAD: usize = 1 << 30;

/// Bytes of one read.
const PIECE: usize = 1 << 20;

/// Has the disk read what is converted next while the processor is busy.
///
/// A turned matrix is read from its map in strides that no system's own read-ahead follows, and asking the system to (`madvise`) gets
/// a few hundred kilobytes at most. So the files are read in order, and what was read is in the system's cache when the map is.
#[derive(Default)]
pub(super) struct ReadAhead {
    /// What is being converted.
    at: AtomicUsize,
    stopped: AtomicBool,
}

/// Ends the reading when it is dropped.
pub(super) struct Stop<'a>(&'a ReadAhead);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Relaxed);
    }
}

impl ReadAhead {
    pub(super) fn stop_when_dropped(&self) -> Stop<'_> {
        Stop(self)
    }

    /// What has number `item` is converted now, and all before it is done.
    pub(super) fn reached(&self, item: usize) {
        self.at.store(item, Ordering::Relaxed);
    }

    /// Read matrices in the order in which they are converted, each with the number of the item that it is part of, to the end or until it
    /// is stopped. What cannot be read is left for the map to find out.
    pub(super) fn run<'a>(&self, matrices: impl Iterator<Item = (usize, &'a Matrix)>) {
        let mut file: Option<(Arc<Path>, File)> = None;
        let mut buffer = vec![0; PIECE];
        let mut ahead = VecDeque::new();
        let mut bytes_ahead = 0;
        for (index, matrix) in matrices {
            for (path, range) in matrix.extents() {
                if !self.wait_for_room(&mut ahead, &mut bytes_ahead) {
                    return;
                }
                // Converted already: the reader is behind, and would only read it a second time.
                if index < self.at.load(Ordering::Relaxed) {
                    continue;
                }
                let same = file.as_ref().is_some_and(|(open, _)| *open == path);
                if !same {
                    file = File::open(&path).ok().map(|open| (path, open));
                }
                ahead.push_back((index, range.len()));
                bytes_ahead += range.len();
                if let Some((_, file)) = &mut file
                    && self.read(file, range, &mut buffer).is_err()
                {
                    return;
                }
            }
        }
    }

    /// Wait until little enough is ahead; `false` when it is stopped.
    fn wait_for_room(&self, ahead: &mut VecDeque<(usize, usize)>, bytes_ahead: &mut usize) -> bool {
        loop {
            let at = self.at.load(Ordering::Relaxed);
            while ahead.front().is_some_and(|(index, _)| *index < at) {
                *bytes_ahead -= ahead.pop_front().map_or(0, |(_, bytes)| bytes);
            }
            if self.stopped.load(Ordering::Relaxed) {
                return false;
            }
            if *bytes_ahead <= AHEAD {
                return true;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn read(&self, file: &mut File, range: Range<usize>, buffer: &mut [u8]) -> io::Result<()> {
        file.seek(SeekFrom::Start(range.start as u64))?;
        let mut left = range.len();
        while left > 0 && !self.stopped.load(Ordering::Relaxed) {
            let piece = left.min(buffer.len());
            match file.read(&mut buffer[..piece])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => left -= read,
            }
        }
        Ok(())
    }
}
