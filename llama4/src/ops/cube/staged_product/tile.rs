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

/// What a cube brings of a matrix in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Part {
    pub(super) rows: usize,
    pub(super) encoding: Encoding,
}

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
    /// Whether rows may be of several groups.
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

    pub(super) fn part_of_x(self) -> Part {
        Part { rows: self.rows, encoding: self.x }
    }

    pub(super) fn part_of_weight(self) -> Part {
        Part { rows: self.outputs, encoding: self.weight }
    }

    /// Vectors of a row of a part.
    pub(super) fn vectors(self, part: Part) -> usize {
        self.depth / part.encoding.values()
    }

    /// Vectors that a unit brings of a part.
    pub(super) fn loads(self, part: Part) -> usize {
        part.rows * self.vectors(part) / self.units()
    }

    /// Vectors of shared memory that a part takes.
    pub(super) fn lines(self, part: Part) -> usize {
        part.rows * self.stride()
    }

    /// Whether values 1 and 2 of every four are exchanged in shared memory, which saves work where numbers become `f16`.
    pub(super) fn exchanged(self) -> bool {
        self.cores && self.weight.has_scales()
    }

    /// Fragments of a plane along the rows, and along the outputs; none where units multiply.
    pub(super) fn fragments(self) -> (usize, usize) {
        if self.cores { (self.plane_rows() / FRAGMENT, PLANE_OUTPUTS / FRAGMENT) } else { (0, 0) }
    }

    /// Sums of a unit, where units multiply; else something to name.
    pub(super) fn sums(self) -> usize {
        if self.cores { 1 } else { self.rows / APART * OWN }
    }

    /// Values of the places where planes put fragments of results.
    pub(super) fn patches(self) -> usize {
        self.units() / PLANE * FRAGMENT * FRAGMENT
    }

    pub(super) fn shared_bytes(self) -> usize {
        let patches = if self.cores { self.patches() } else { 0 };
        4 * (LINE * (self.lines(self.part_of_x()) + self.lines(self.part_of_weight())) + patches)
    }
}

/// Where vector `line` of a row stands in shared memory. Units that read at once read eight neighbouring rows, in different banks.
#[cube]
pub(super) fn placed(row: usize, line: usize, #[comptime] tile: Tile) -> usize {
    let first = row * comptime!(tile.stride());
    if comptime!(tile.cores) { first + line } else { first + (line ^ (row % 8)) }
}
