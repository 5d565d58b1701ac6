use std::ops::Range;

/// Reads a header from front to back. Nothing is taken that is not there, and nothing is allocated.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// Where the next `len` bytes are.
    pub(super) fn skip(&mut self, len: u64) -> Result<Range<usize>, String> {
        let end = usize::try_from(len).ok().and_then(|len| self.position.checked_add(len));
        match end {
            Some(end) if end <= self.bytes.len() => {
                let range = self.position..end;
                self.position = end;
                Ok(range)
            }
            _ => Err(format!(
                "it is cut short: {len} bytes are wanted from byte {} on, the file has {}",
                self.position,
                self.bytes.len()
            )),
        }
    }

    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let range = self.skip(N as u64)?;
        let mut taken = [0; N];
        taken.copy_from_slice(&self.bytes[range]);
        Ok(taken)
    }

    pub(super) fn u32(&mut self) -> Result<u32, String> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, String> {
        self.take().map(u64::from_le_bytes)
    }

    /// Where the bytes of the next string are: 8 bytes of length come before them.
    pub(super) fn string(&mut self) -> Result<Range<usize>, String> {
        let len = self.u64()?;
        self.skip(len)
    }

    /// The next string as a name of at most `longest` bytes.
    pub(super) fn name(&mut self, longest: usize) -> Result<&'a str, String> {
        let range = self.string()?;
        if range.len() > longest {
            return Err(format!("a name of {} bytes, at most {longest} are read", range.len()));
        }
        str::from_utf8(&self.bytes[range]).map_err(|error| format!("a name is not UTF-8: {error}"))
    }

    /// How many things of at least `smallest` bytes each are said to follow. No more than fit the rest of the file, and no more
    /// than `most`.
    pub(super) fn count(&mut self, what: &str, smallest: usize, most: usize) -> Result<usize, String> {
        let count = self.u64()?;
        let fit = self.remaining() / smallest;
        match usize::try_from(count) {
            Ok(count) if count <= fit && count <= most => Ok(count),
            Ok(count) if count <= fit => Err(format!("it claims {count} {what}; at most {most} are read")),
            _ => Err(format!("it claims {count} {what}; the file ends after {} more bytes", self.remaining())),
        }
    }
}
