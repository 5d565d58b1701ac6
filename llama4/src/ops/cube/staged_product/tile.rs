use cubecl::prelude::*;

use crate::ops::cube::values::{Encoding, LINE};

/// Units of a plane, where planes matter.
pub(super) const PLANE: usize = 32;

/// Rows, outputs and depth of a product of fragments.
pub(super) const FRAGMENT: usize = 16;

/// Rows of a unit lie so many apart, and there are so many units along the rows of a tile.
pub(super) const APART: usize = 8;

/// Outputs of a unit.
pub(super) const OWN: usize = 8;

/// Outputs of a plane, and the most rows.
pub(super) const PLANE_OUTPUTS: usize = 32;
const PLANE_ROWS: usize = 64;

/// How a cube works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Tile {
    pub(super) x: Encoding,
    pub(super) weight: Encoding,
    /// Rows of `x` and outputs of a cube.
    pub(super) rows: usize,
    pub(super) outputs: usize,
    /// Values of each that are in shared memory at once.
    pub(super) depth: usize,
    /// Whether tensor cores multiply, 16 times 16 times 16 values of `f16`, and not units, of `f32`.
    pub(super) cores: bool,
    /// Whether there is a table of the tiles of rows; otherwise all rows are of one group.
    pub(super) grouped: bool,
}

impl Tile {
    pub(super) fn units(self) -> usize {
        if self.cores { PLANE * self.planes_down() * self.planes_beside() } else { APART * self.outputs / OWN }
    }

    /// Planes above each other.
    pub(super) fn planes_down(self) -> usize {
        self.rows / self.plane_rows()
    }

    pub(super) fn planes_beside(self) -> usize {
        self.outputs / PLANE_OUTPUTS
    }

    /// Rows of a plane.
    pub(super) fn plane_rows(self) -> usize {
        self.rows.min(PLANE_ROWS)
    }

    /// Values of a vector of shared memory.
    pub(super) fn line_values(self) -> usize {
        if self.cores { 2 * LINE } else { LINE }
    }

    /// Vectors of a row in shared memory that hold values.
    pub(super) fn row_lines(self) -> usize {
        self.depth / self.line_values()
    }

    /// Vectors from a row to the next. Of tensor cores' matrices rows are apart, so that those that are read at once lie in different banks.
    pub(super) fn stride(self) -> usize {
        self.row_lines() + usize::from(self.cores)
    }

    /// Vectors that a unit brings in a step, of so many rows.
    pub(super) fn loads(self, rows: usize, encoding: Encoding) -> usize {
        rows * (self.depth / encoding.values()) / self.units()
    }

    /// Whether values 1 and 2 of every four are exchanged in shared memory, which saves work where numbers become `f16`.
    pub(super) fn exchanged(self) -> bool {
        self.cores && self.weight.has_scales()
    }

    /// Fragments of a plane along the rows, and along the outputs.
    pub(super) fn fragments(self) -> (usize, usize) {
        (self.plane_rows() / FRAGMENT, PLANE_OUTPUTS / FRAGMENT)
    }

    /// Sums of a unit, where units multiply.
    pub(super) fn sums(self) -> usize {
        self.rows / APART * OWN
    }

    /// Values of the places where planes put fragments of results.
    pub(super) fn patches(self) -> usize {
        self.units() / PLANE * FRAGMENT * FRAGMENT
    }

    pub(super) fn shared_bytes(self) -> usize {
        let patches = if self.cores { self.patches() } else { 0 };
        (self.rows + self.outputs) * self.stride() * LINE * 4 + 4 * patches
    }
}

/// Where vector `line` of a row stands in shared memory. Units that read at once read eight neighbouring rows, in different banks.
#[cube]
pub(super) fn placed(row: usize, line: usize, #[comptime] tile: Tile) -> usize {
    let first = row * comptime!(tile.stride());
    if comptime!(tile.cores) { first + line } else { first + (line ^ (row % 8)) }
}
