//! The part of the zip format that PyTorch's files are written in: members stored as they are, so that they can be mapped.

use std::collections::HashMap;
use std::ops::Range;

/// The record at the very end, which says where the directory is. PyTorch writes no comment behind it, so it need not be searched for:
/// a search tries every place that looks like one, and a file can be full of them.
const END: ([u8; 4], usize) = (*b"PK\x05\x06", 22);
/// The same with numbers of 64 bits, and what says where that is, right before the other.
const END_64: ([u8; 4], usize) = (*b"PK\x06\x06", 56);
const LOCATOR_64: ([u8; 4], usize) = (*b"PK\x06\x07", 20);
/// A member's entry in the directory, without its name.
const ENTRY: ([u8; 4], usize) = (*b"PK\x01\x02", 46);
/// What stands before a member's bytes, without its name.
const LOCAL: ([u8; 4], usize) = (*b"PK\x03\x04", 30);

/// Number of the extra field that holds sizes of 64 bits.
const SIZES_64: u64 = 1;

/// Where the bytes of each member are. The error says what is wrong with the archive.
pub(super) fn members(bytes: &[u8]) -> Result<HashMap<String, Range<usize>>, String> {
    let (count, directory) = directory(bytes).ok_or("its archive cannot be read: it does not end as one")?;
    let mut rest = &bytes[directory];
    let mut members = HashMap::new();
    for index in 0..count {
        let broken = || format!("its archive cannot be read: entry {index} of {count} is broken");
        let (entry, after) = Entry::read(rest).ok_or_else(broken)?;
        rest = after;
        let name = String::from_utf8_lossy(entry.name).into_owned();
        if !entry.is_plain {
            return Err(format!("its member {name} is compressed or encrypted, which PyTorch never does"));
        }
        let range = entry
            .place(bytes)
            .ok_or_else(|| format!("it is cut short or broken: its member {name} is not where it should be"))?;
        if members.insert(name.clone(), range).is_some() {
            return Err(format!("its member {name} occurs twice"));
        }
    }
    Ok(members)
}

/// Number of members, and where the directory is.
fn directory(bytes: &[u8]) -> Option<(u64, Range<usize>)> {
    let end = bytes.len().checked_sub(END.1)?;
    let record = record(bytes, end as u64, END)?;
    // The length of a comment.
    if number(record, 20, 2)? != 0 {
        return None;
    }
    let (mut count, mut size, mut start) = (number(record, 10, 2)?, number(record, 12, 4)?, number(record, 16, 4)?);
    if count == 0xffff || size == 0xffff_ffff || start == 0xffff_ffff {
        let locator = self::record(bytes, end.checked_sub(LOCATOR_64.1)? as u64, LOCATOR_64)?;
        let record = self::record(bytes, number(locator, 8, 8)?, END_64)?;
        (count, size, start) = (number(record, 32, 8)?, number(record, 40, 8)?, number(record, 48, 8)?);
    }
    let range = range(start, size)?;
    (range.end <= end).then_some((count, range))
}

/// A member as the directory describes it.
struct Entry<'a> {
    name: &'a [u8],
    /// Neither compressed nor encrypted.
    is_plain: bool,
    size: u64,
    /// Where its local header is.
    start: u64,
}

impl<'a> Entry<'a> {
    /// The first entry of a directory, and the others.
    fn read(directory: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let entry = record(directory, 0, ENTRY)?;
        let [flags, method] = [8, 10].map(|at| number(entry, at, 2));
        let [mut packed, mut size, mut start] = [20, 24, 42].map(|at| number(entry, at, 4).unwrap_or_default());
        let [name, extra, comment] = [28, 30, 32].map(|at| number(entry, at, 2).unwrap_or_default() as usize);
        let (name, rest) = directory.get(ENTRY.1..)?.split_at_checked(name)?;
        let (mut extra, rest) = rest.split_at_checked(extra)?;
        let rest = rest.get(comment..)?;
        while let (Some(id), Some(len)) = (number(extra, 0, 2), number(extra, 2, 2)) {
            let (mut field, others) = extra.get(4..)?.split_at_checked(len as usize)?;
            extra = others;
            if id == SIZES_64 {
                // Those that the entry has no room for, in this order.
                for value in [&mut size, &mut packed, &mut start] {
                    if *value == 0xffff_ffff {
                        *value = number(field, 0, 8)?;
                        field = field.get(8..)?;
                    }
                }
            }
        }
        let is_plain = method == Some(0) && flags? & 1 == 0 && packed == size;
        Some((Self { name, is_plain, size, start }, rest))
    }

    /// Where its bytes are.
    fn place(&self, bytes: &[u8]) -> Option<Range<usize>> {
        let local = record(bytes, self.start, LOCAL)?;
        let before = LOCAL.1 as u64 + number(local, 26, 2)? + number(local, 28, 2)?;
        let range = range(self.start.checked_add(before)?, self.size)?;
        (range.end <= bytes.len()).then_some(range)
    }
}

/// The record at `start`, if it begins with its signature and is all there.
fn record(bytes: &[u8], start: u64, (signature, len): ([u8; 4], usize)) -> Option<&[u8]> {
    let record = bytes.get(range(start, len as u64)?)?;
    record.starts_with(&signature).then_some(record)
}

fn range(start: u64, len: u64) -> Option<Range<usize>> {
    let end = start.checked_add(len)?;
    Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}

/// A little-endian number of at most 8 bytes.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(width)?)?;
    Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}
