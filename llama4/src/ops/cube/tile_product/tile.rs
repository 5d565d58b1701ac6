use cubecl::prelude::*;

/// Units of a plane.
pub(super) const PLANE: usize = 32;

/// Elements of a vector that is loaded at once: 16 bytes of words.
pub(super) const LINE: usize = 4;

/// Values of `x` in such a vector.
pub(super) const CHUNK: usize = 8;

/// Rows of `x` that one product of fragments takes; its rows of the weight are sixteen.
pub(super) const ROWS: usize = 8;

/// Rows of the weight of a unit: two in each of two fragments.
pub(super) const OWN: usize = 4;

/// Outputs of a plane.
pub(super) const OUTPUTS: usize = 8 * OWN;

/// How 16 bytes of a weight become floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Encoding {
    /// Floats of 16 bits, of the type of `x`.
    Half,
    /// Bytes with a scale for 32.
    Q8,
    /// Nibbles with a scale for 32.
    Q4,
}

impl Encoding {
    /// Values in 16 bytes.
    pub(super) fn values(self) -> usize {
        match self {
            Self::Half => 8,
            Self::Q8 => 16,
            Self::Q4 => 32,
        }
    }

    /// Vectors of `x` for 16 bytes of a weight.
    pub(super) fn chunks(self) -> usize {
        self.values() / CHUNK
    }

    /// Values of a row that a plane takes in one step: each unit of four has 16 bytes.
    pub(super) fn step(self) -> usize {
        4 * self.values()
    }
}

/// How a cube works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Tile {
    pub(super) encoding: Encoding,
    /// Fragments of `x` of a plane, [`ROWS`] rows each.
    pub(super) heights: usize,
    /// Planes beside each other, [`OUTPUTS`] each.
    pub(super) planes: usize,
    /// Planes that share outputs, each with a part of the steps.
    pub(super) split: usize,
    /// Steps of a plane in a stage.
    pub(super) steps: usize,
    /// Parts of rows of `x` in shared memory: one that is used, the others on their way.
    pub(super) stages: usize,
    /// Whether rows may be of several groups.
    pub(super) grouped: bool,
}

impl Tile {
    /// Rows of `x` of a cube.
    pub(super) fn rows(self) -> usize {
        ROWS * self.heights
    }

    /// Outputs of a cube.
    pub(super) fn outputs(self) -> usize {
        OUTPUTS * self.planes
    }

    pub(super) fn units(self) -> usize {
        PLANE * self.planes * self.split
    }

    /// Values of a row in a stage.
    pub(super) fn depth(self) -> usize {
        self.encoding.step() * self.split * self.steps
    }

    /// Vectors of a row in a stage.
    pub(super) fn row_lines(self) -> usize {
        self.depth() / CHUNK
    }

    /// Vectors of a stage.
    pub(super) fn stage_lines(self) -> usize {
        self.rows() * self.row_lines()
    }

    /// Rows between two of those of which a unit brings a vector: an even number, so that they are [`placed`] alike.
    pub(super) fn rows_between(self) -> usize {
        let rows = self.units() / self.row_lines();
        debug_assert!(rows.is_multiple_of(2), "{self:?}");
        rows
    }

    /// Sums of a unit, in pairs.
    pub(super) fn sums(self) -> usize {
        OWN * self.heights
    }

    /// Pairs of sums in shared memory where planes have to add theirs.
    pub(super) fn joined(self) -> usize {
        if self.split > 1 { self.units() * self.sums() } else { 1 }
    }

    pub(super) fn shared_bytes(self) -> usize {
        16 * self.stages * self.stage_lines() + 8 * self.joined() + 1024
    }
}

/// Where vector `line` of a row stands in shared memory, so that the eight units of two rows that read at once meet no bank twice.
#[cube]
pub(super) fn placed(row: usize, line: usize, #[comptime] encoding: Encoding) -> usize {
    match comptime!(encoding) {
        Encoding::Half => line ^ (row % 2 * 4),
        Encoding::Q8 => line ^ (row % 2),
        Encoding::Q4 => line ^ (row % 2 * 2) ^ (line / 8 % 2),
    }
}
