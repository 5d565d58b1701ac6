use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::blob::Blob;
use crate::quant::Packing;

/// The type of a tensor's elements, as its file names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StoredDtype {
    /// 8-bit exponent, 7-bit fraction.
    Bf16,
    /// IEEE half precision.
    F16,
    /// IEEE single precision.
    F32,
    /// 8 bits with 4 of exponent and no infinities; such weights come with scales.
    F8E4m3,
    /// This library's packed words, with scales.
    Packed(Packing),
    /// Blocks of another kind, as GGUF has them.
    Blocks {
        /// The kind's own name.
        name: String,
        /// The packing that keeps most of it.
        nearest: Packing,
    },
    /// Anything else, under the file's own name for it.
    Other(String),
}

impl StoredDtype {
    /// From the name that safetensors headers use.
    pub(super) fn named(name: &str) -> Self {
        match name {
            "BF16" => Self::Bf16,
            "F16" => Self::F16,
            "F32" => Self::F32,
            "F8_E4M3" => Self::F8E4m3,
            other => Self::Other(other.to_string()),
        }
    }

    /// Bits of an element; `None` for a name that nobody has defined so far.
    pub(super) fn bits(&self) -> Option<usize> {
        Some(match self {
            Self::F32 => 32,
            Self::Bf16 | Self::F16 => 16,
            Self::F8E4m3 => 8,
            Self::Packed(packing) => packing.bits(),
            Self::Blocks { .. } => return None,
            Self::Other(name) => match name.as_str() {
                "F64" | "I64" | "U64" | "C64" => 64,
                "I32" | "U32" => 32,
                "I16" | "U16" => 16,
                "F8_E5M2" | "F8_E8M0" | "I8" | "U8" | "BOOL" => 8,
                "F6_E2M3" | "F6_E3M2" => 6,
                "F4" => 4,
                _ => return None,
            },
        })
    }

    /// Bytes of an element, if it is a float that can be read.
    pub(super) fn float_bytes(&self) -> Option<usize> {
        match self {
            Self::F32 => Some(4),
            Self::Bf16 | Self::F16 => Some(2),
            Self::F8E4m3 => Some(1),
            Self::Packed(_) | Self::Blocks { .. } | Self::Other(_) => None,
        }
    }

    /// The packing that keeps most of what is stored; `None` for floats.
    pub(super) fn nearest_packing(&self) -> Option<Packing> {
        match self {
            Self::Packed(packing) | Self::Blocks { nearest: packing, .. } => Some(*packing),
            _ => None,
        }
    }

    /// Whether this is how quantised weights are stored.
    pub(super) fn is_quantised(&self) -> bool {
        match self {
            Self::F8E4m3 | Self::Packed(_) | Self::Blocks { .. } => true,
            Self::Other(name) => {
                ["F8_", "F6_"].iter().any(|prefix| name.starts_with(prefix))
                    || ["F4", "I8", "U8"].contains(&name.as_str())
            }
            _ => false,
        }
    }
}

impl fmt::Display for StoredDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::F32 => "F32",
            Self::F8E4m3 => "F8_E4M3",
            Self::Packed(packing) => packing.as_str(),
            Self::Blocks { name, .. } => name,
            Self::Other(name) => name,
        })
    }
}

/// A tensor as a checkpoint holds it: what its header says, and where its bytes are.
#[derive(Debug, Clone)]
pub(super) struct StoredTensor {
    /// Name in the file, prefix and all.
    pub(super) name: String,
    pub(super) dtype: StoredDtype,
    pub(super) shape: Vec<usize>,
    /// The file, for messages.
    pub(super) file: Arc<Path>,
    pub(super) blob: Blob,
    /// Where in `blob`. Headers are checked against the file's size when they are read.
    pub(super) range: Range<usize>,
}

impl StoredTensor {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.blob[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantised_types_are_told_from_stray_ones() {
        for name in ["F8_E4M3", "F4", "I8", "U8"] {
            assert!(StoredDtype::named(name).is_quantised(), "{name}");
        }
        for name in ["F64", "I64", "BOOL", "BF16", "F32"] {
            assert!(!StoredDtype::named(name).is_quantised(), "{name}");
        }
    }
}
