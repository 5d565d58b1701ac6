use std::fmt;

/// The type of a tensor's elements in a GGUF file: ggml's number for it, and how many values a block of how many bytes holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::import) enum GgmlType {
    F32,
    F16,
    Bf16,
    /// 4-bit values, one scale for 32.
    Q4_0,
    /// 4-bit values, a scale and a minimum for 32.
    Q4_1,
    /// 5-bit values, one scale for 32.
    Q5_0,
    /// 5-bit values, a scale and a minimum for 32.
    Q5_1,
    /// 8-bit values, one scale for 32.
    Q8_0,
    /// 2-bit values, a 4-bit scale and minimum for 16, those scaled for 256.
    Q2K,
    /// 3-bit values, a 6-bit scale for 16, those scaled for 256.
    Q3K,
    /// 4-bit values, a 6-bit scale and minimum for 32, those scaled for 256.
    Q4K,
    /// 5-bit values, a 6-bit scale and minimum for 32, those scaled for 256.
    Q5K,
    /// 6-bit values, an 8-bit scale for 16, those scaled for 256.
    Q6K,
    /// Indices of 16 fixed values, one scale for 32.
    Iq4Nl,
    /// Indices of 16 fixed values, a 6-bit scale for 32, those scaled for 256.
    Iq4Xs,
    /// Known, but its values are not read.
    Other(&'static OtherType),
}

/// A type that this library knows by name and size only.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::import) struct OtherType {
    id: u32,
    name: &'static str,
    /// Values in a block.
    values: usize,
    /// Bytes in a block.
    bytes: usize,
}

/// Types whose values are not read. Without their sizes a file that has one could not be checked, and with their names the error is
/// one that a user can act on.
static OTHERS: [OtherType; 25] = {
    const fn other(id: u32, name: &'static str, values: usize, bytes: usize) -> OtherType {
        OtherType { id, name, values, bytes }
    }
    [
        other(9, "Q8_1", 32, 40),
        other(15, "Q8_K", 256, 292),
        other(16, "IQ2_XXS", 256, 66),
        other(17, "IQ2_XS", 256, 74),
        other(18, "IQ3_XXS", 256, 98),
        other(19, "IQ1_S", 256, 50),
        other(21, "IQ3_S", 256, 110),
        other(22, "IQ2_S", 256, 82),
        other(24, "I8", 1, 1),
        other(25, "I16", 1, 2),
        other(26, "I32", 1, 4),
        other(27, "I64", 1, 8),
        other(28, "F64", 1, 8),
        other(29, "IQ1_M", 256, 56),
        // Six layouts for one kind of processor each, which ggml has dropped since.
        other(31, "Q4_0_4_4", 32, 18),
        other(32, "Q4_0_4_8", 32, 18),
        other(33, "Q4_0_8_8", 32, 18),
        other(34, "TQ1_0", 256, 54),
        other(35, "TQ2_0", 256, 66),
        other(36, "IQ4_NL_4_4", 32, 18),
        other(37, "IQ4_NL_4_8", 32, 18),
        other(38, "IQ4_NL_8_8", 32, 18),
        other(39, "MXFP4", 32, 17),
        other(40, "NVFP4", 64, 36),
        other(41, "Q1_0", 128, 18),
    ]
};

impl GgmlType {
    /// Types whose values are read.
    pub(in crate::import) const READ: [Self; 15] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Iq4Xs,
    ];

    /// From ggml's number; `None` for one that nobody has defined so far.
    pub(super) fn from_id(id: u32) -> Option<Self> {
        let read = Self::READ.into_iter().find(|kind| kind.id() == id);
        read.or_else(|| OTHERS.iter().find(|other| other.id == id).map(Self::Other))
    }

    /// Whether its values are read.
    pub(in crate::import) fn is_read(self) -> bool {
        !matches!(self, Self::Other(_))
    }

    /// Values in a block; a row is a whole number of blocks.
    pub(in crate::import) fn block_values(self) -> usize {
        self.about().2
    }

    /// Bytes in a block.
    pub(in crate::import) fn block_bytes(self) -> usize {
        self.about().3
    }

    fn id(self) -> u32 {
        self.about().0
    }

    /// Number, name, values and bytes of a block.
    fn about(self) -> (u32, &'static str, usize, usize) {
        match self {
            Self::F32 => (0, "F32", 1, 4),
            Self::F16 => (1, "F16", 1, 2),
            Self::Q4_0 => (2, "Q4_0", 32, 18),
            Self::Q4_1 => (3, "Q4_1", 32, 20),
            Self::Q5_0 => (6, "Q5_0", 32, 22),
            Self::Q5_1 => (7, "Q5_1", 32, 24),
            Self::Q8_0 => (8, "Q8_0", 32, 34),
            Self::Q2K => (10, "Q2_K", 256, 84),
            Self::Q3K => (11, "Q3_K", 256, 110),
            Self::Q4K => (12, "Q4_K", 256, 144),
            Self::Q5K => (13, "Q5_K", 256, 176),
            Self::Q6K => (14, "Q6_K", 256, 210),
            Self::Iq4Nl => (20, "IQ4_NL", 32, 18),
            Self::Iq4Xs => (23, "IQ4_XS", 256, 136),
            Self::Bf16 => (30, "BF16", 1, 2),
            Self::Other(other) => (other.id, other.name, other.values, other.bytes),
        }
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.about().1)
    }
}

/// Bytes of a row of `columns` values; `None` where that is not a whole number of blocks.
pub(in crate::import) fn row_bytes(kind: GgmlType, columns: usize) -> Option<usize> {
    let whole = columns.is_multiple_of(kind.block_values());
    (columns / kind.block_values()).checked_mul(kind.block_bytes()).filter(|_| whole)
}
