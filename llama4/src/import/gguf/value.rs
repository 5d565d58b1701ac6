use std::fmt;
use std::ops::Range;

use super::cursor::Cursor;

/// The type of a value, by the format's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueKind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

/// A value of the metadata. Integers of every width are `U64` or `I64`, which hold them all.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    /// Where the text is in the file.
    Text(Range<usize>),
    Array(Array),
}

/// Several values of one type.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Array {
    pub(super) kind: ValueKind,
    pub(super) count: usize,
    /// Where they are in the file, one after the other.
    pub(super) bytes: Range<usize>,
}

impl ValueKind {
    fn read(cursor: &mut Cursor) -> Result<Self, String> {
        use ValueKind::*;
        const KINDS: [ValueKind; 13] = [U8, I8, U16, I16, U32, I32, F32, Bool, Text, Array, U64, I64, F64];
        let id = cursor.u32()?;
        let kind = usize::try_from(id).ok().and_then(|id| KINDS.get(id).copied());
        kind.ok_or_else(|| format!("its type {id} is not one of 0 to {}", KINDS.len() - 1))
    }

    pub(super) fn is_integer(self) -> bool {
        use ValueKind::*;
        matches!(self, U8 | I8 | U16 | I16 | U32 | I32 | U64 | I64)
    }

    /// Bytes of a value, or for texts and arrays the fewest it can have.
    fn bytes(self) -> usize {
        use ValueKind::*;
        match self {
            U8 | I8 | Bool => 1,
            U16 | I16 => 2,
            U32 | I32 | F32 => 4,
            U64 | I64 | F64 | Text => 8,
            Array => 12,
        }
    }
}

impl Value {
    /// A type and a value of it.
    pub(super) fn read(cursor: &mut Cursor) -> Result<Self, String> {
        let kind = ValueKind::read(cursor)?;
        Self::read_as(kind, cursor)
    }

    pub(super) fn read_as(kind: ValueKind, cursor: &mut Cursor) -> Result<Self, String> {
        Ok(match kind {
            ValueKind::U8 => Self::U64(cursor.take().map(u8::from_le_bytes)?.into()),
            ValueKind::I8 => Self::I64(cursor.take().map(i8::from_le_bytes)?.into()),
            ValueKind::U16 => Self::U64(cursor.take().map(u16::from_le_bytes)?.into()),
            ValueKind::I16 => Self::I64(cursor.take().map(i16::from_le_bytes)?.into()),
            ValueKind::U32 => Self::U64(cursor.u32()?.into()),
            ValueKind::I32 => Self::I64(cursor.take().map(i32::from_le_bytes)?.into()),
            ValueKind::F32 => Self::F32(cursor.take().map(f32::from_le_bytes)?),
            ValueKind::U64 => Self::U64(cursor.u64()?),
            ValueKind::I64 => Self::I64(cursor.take().map(i64::from_le_bytes)?),
            ValueKind::F64 => Self::F64(cursor.take().map(f64::from_le_bytes)?),
            ValueKind::Bool => match cursor.take::<1>()? {
                [0] => Self::Bool(false),
                [1] => Self::Bool(true),
                [other] => return Err(format!("a bool is {other}, not 0 or 1")),
            },
            ValueKind::Text => Self::Text(cursor.string()?),
            ValueKind::Array => Self::Array(Array::read(cursor)?),
        })
    }

    /// Of an integer, its value.
    pub(super) fn as_integer(&self) -> Option<i128> {
        match self {
            Self::U64(number) => Some((*number).into()),
            Self::I64(number) => Some((*number).into()),
            _ => None,
        }
    }

    /// The same, read from a part of the file that begins at `start`.
    pub(super) fn moved(self, start: usize) -> Self {
        match self {
            Self::Text(range) => Self::Text(range.start + start..range.end + start),
            value => value,
        }
    }
}

impl Array {
    /// Passes over the values, so that later it is known that they are there.
    ///
    /// Arrays of arrays are refused, as llama.cpp does: no key has one, and a file could nest them without end.
    fn read(cursor: &mut Cursor) -> Result<Self, String> {
        let kind = ValueKind::read(cursor)?;
        if kind == ValueKind::Array {
            return Err("an array of arrays, which no known key has".to_string());
        }
        let count = cursor.count("array elements", kind.bytes(), usize::MAX)?;
        let start = cursor.position();
        match kind {
            ValueKind::Text => {
                for _ in 0..count {
                    cursor.string()?;
                }
            }
            kind => {
                // No more than the file has bytes: `count` was seen to fit.
                cursor.skip((count * kind.bytes()) as u64)?;
            }
        }
        Ok(Self { kind, count, bytes: start..cursor.position() })
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U64(number) => number.fmt(f),
            Self::I64(number) => number.fmt(f),
            Self::F32(number) => number.fmt(f),
            Self::F64(number) => number.fmt(f),
            Self::Bool(flag) => flag.fmt(f),
            Self::Text(range) => write!(f, "a text of {} bytes", range.len()),
            Self::Array(array) => write!(f, "a list of {} {:?} values", array.count, array.kind),
        }
    }
}
