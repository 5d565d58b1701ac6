use cubecl::prelude::*;

/// Units of a plane.
pub(super) const PLANE: usize = 32;

/// Elements of a vector of words, and values in it: 16 bytes.
pub(super) const LINE: usize = 4;
pub(super) const CHUNK: usize = 8;

/// Queries of a plane.
pub(super) const QUERIES: usize = 16;

/// Keys of a step. With twice as many, units have so many registers that a multiprocessor has room for two cubes in place of three.
pub(super) const KEYS: usize = 32;

/// How a cube works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Block {
    pub(super) head_dim: usize,
    /// Planes, [`QUERIES`] each.
    pub(super) planes: usize,
    /// Steps of keys and values in shared memory: one that is used, the others on their way.
    pub(super) stages: usize,
}

impl Block {
    /// Queries of a cube.
    pub(super) fn queries(self) -> usize {
        QUERIES * self.planes
    }

    pub(super) fn units(self) -> usize {
        PLANE * self.planes
    }

    /// Vectors of a key.
    pub(super) fn width(self) -> usize {
        self.head_dim / CHUNK
    }

    /// Vectors of the keys of a step.
    pub(super) fn stage_lines(self) -> usize {
        KEYS * self.width()
    }

    pub(super) fn shared_bytes(self) -> usize {
        2 * 16 * self.stages * self.stage_lines() + 1024
    }
}

/// Where vector `line` of a key stands in shared memory: eight units that read four vectors of two keys meet no bank twice.
#[cube]
pub(super) fn placed_key(key: usize, line: usize) -> usize {
    line ^ (key % 2 * 4)
}

/// The same of a value, of which eight units read one vector of eight values.
#[cube]
pub(super) fn placed_value(key: usize, line: usize) -> usize {
    line ^ (key % 8)
}
