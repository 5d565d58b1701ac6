//! Rows that are sorted by group, in tiles of rows of one group: what a cube of a product has to do.
//!
//! A cube finds its tile from how many rows each group has, so that this need not be known where products are launched.

use std::borrow::Cow;
use std::ops::Range;

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use cubecl::server::Handle;

use super::args::upload;

/// Tiles of rows that are taken together, so that they read a tile of the weight at about the same time.
const BAND: usize = 16;

/// Groups of rows, each of which has a weight of its own.
pub(in crate::ops) enum Groups<'a, R: CubeRuntime> {
    /// So many rows each.
    Known(&'a [usize]),
    /// What a router chose.
    Routed(RoutedGroups<'a, R>),
}

/// Groups whose rows are counted on the device.
pub(in crate::ops) struct RoutedGroups<'a, R: CubeRuntime> {
    /// Rows of each group there is, `U32`.
    pub(super) counts: &'a CubeTensor<R>,
    /// The groups that the weight is of.
    pub(super) of_weight: Range<usize>,
}

/// Rows of groups as a kernel gets them.
pub(super) struct Counts {
    handle: Handle,
    len: usize,
    /// The groups that the weight is of.
    of_weight: Range<usize>,
}

impl<R: CubeRuntime> Groups<'_, R> {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Known(counts) => counts.len(),
            Self::Routed(groups) => groups.of_weight.len(),
        }
    }

    /// Whether rows may be of several groups, or of others than the weight is of.
    pub(super) fn several(&self) -> bool {
        !matches!(self, Self::Known([_]))
    }

    /// Their rows, or what they may be if `rows` are those of all groups: what is chosen by it is right for any, but not as quick.
    pub(super) fn likely(&self, rows: usize) -> Cow<'_, [usize]> {
        match self {
            Self::Known(counts) => Cow::Borrowed(counts),
            Self::Routed(groups) => {
                // Eighths of the mean. Some experts are liked more than others.
                const SPREAD: [usize; 8] = [8, 4, 10, 2, 18, 6, 9, 7];
                let all = groups.counts.shape[0].max(1);
                groups.of_weight.clone().map(|group| (rows * SPREAD[group % 8]).div_ceil(8 * all)).collect()
            }
        }
    }

    /// The number of tiles, or the most that there can be.
    pub(super) fn most_tiles(&self, rows: usize, tiles: RowTiles) -> usize {
        match self {
            Self::Known(counts) => tiles.number(counts),
            Self::Routed(_) => {
                let (full, from) = if tiles.rests { (0, 1) } else { (rows / tiles.large, tiles.small + 1) };
                full + self.len().min(rows / from)
            }
        }
    }

    /// For a kernel; where all rows are of one group it asks for no counts, and gets `instead` to bind.
    pub(super) fn bind(&self, client: &ComputeClient<R>, grouped: bool, instead: &CubeTensor<R>) -> Counts {
        let (handle, len, of_weight) = match self {
            Self::Known(counts) if grouped => {
                let words: Vec<u32> = counts.iter().map(|&count| count as u32).collect();
                (upload(client, &words), words.len(), 0..words.len())
            }
            Self::Known(_) => (instead.handle.clone(), 1, 0..1),
            Self::Routed(groups) => (groups.counts.handle.clone(), groups.counts.shape[0], groups.of_weight.clone()),
        };
        Counts { handle, len, of_weight }
    }
}

impl Counts {
    /// How `[rows, outputs]` are divided, into at most so many tiles of each.
    pub(super) fn divide<'a, R: CubeRuntime>(
        &self,
        [rows, outputs]: [usize; 2],
        tiles: RowTiles,
        [row_tiles, output_tiles]: [usize; 2],
    ) -> DivisionLaunch<'a, R> {
        DivisionLaunch::new(
            ScalarArg::new(tiles.large.trailing_zeros()),
            ScalarArg::new(tiles.small),
            ScalarArg::new(u32::from(tiles.rests)),
            ScalarArg::new(rows),
            ScalarArg::new(outputs),
            ScalarArg::new(row_tiles),
            ScalarArg::new(output_tiles),
            ScalarArg::new(self.of_weight.start),
            ScalarArg::new(self.of_weight.len()),
        )
    }

    pub(super) fn argument<R: CubeRuntime>(&self) -> ArrayArg<'_, R> {
        // SAFETY: `handle` has `len` words.
        unsafe { ArrayArg::from_raw_parts_and_size(&self.handle, self.len, 1, 4) }
    }
}

/// How the rows of each group are divided: into tiles of `large` rows, but what is left at its end goes to a smaller tile where that has room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowTiles {
    /// A power of two.
    pub(super) large: usize,
    /// Rows of the smaller ones; none if all are large.
    pub(super) small: usize,
    /// Whether the smaller ones are meant, or the others.
    pub(super) rests: bool,
}

impl RowTiles {
    /// All of so many rows.
    pub(super) fn of(rows: usize) -> Self {
        Self { large: rows, small: 0, rests: false }
    }

    /// The most rows that one of them has.
    pub(super) fn rows(self) -> usize {
        if self.rests { self.small } else { self.large }
    }

    /// The number of them.
    pub(super) fn number(self, counts: &[usize]) -> usize {
        let of_group = |&count: &usize| {
            let rest = count % self.large;
            match self.rests {
                true => usize::from(rest > 0 && rest <= self.small),
                false => count / self.large + usize::from(rest > self.small),
            }
        };
        counts.iter().map(of_group).sum()
    }
}

/// What a cube has to do.
#[derive(CubeType)]
pub(super) struct Share {
    pub(super) first_row: usize,
    /// How many rows of the tile there are; none if there is no such tile.
    pub(super) rows: usize,
    /// The first row of the group's weight.
    pub(super) first_weight: usize,
    pub(super) output_tile: usize,
}

/// [`RowTiles`] and what they divide, as kernels get them.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Division {
    /// The binary logarithm of the rows of a large tile.
    pub(super) large: u32,
    pub(super) small: usize,
    /// Not 0 if the smaller tiles are meant.
    pub(super) rests: u32,
    /// Rows and outputs, of all tiles.
    pub(super) rows: usize,
    pub(super) outputs: usize,
    /// The most tiles of rows that there can be, and the number of tiles of outputs.
    pub(super) row_tiles: usize,
    pub(super) output_tiles: usize,
    /// The first group of the weight, and the number of them.
    pub(super) first_group: usize,
    pub(super) groups: usize,
}

#[cube]
impl Share {
    /// That of the cube at `CUBE_POS`. Where all rows are of one group, there is nothing to count.
    pub(super) fn of_cube(counts: &Array<u32>, all: &Division, #[comptime] grouped: bool) -> Share {
        let band = CUBE_POS / (BAND * all.output_tiles);
        let within = CUBE_POS % (BAND * all.output_tiles);
        let height = select(band * BAND + BAND < all.row_tiles, BAND, all.row_tiles - band * BAND);
        let row_tile = band * BAND + within % height;
        let large = 1usize << all.large as usize;
        let mut first_row = row_tile * large;
        let mut rows = select(first_row + large < all.rows, large, all.rows - first_row);
        let mut first_weight = 0usize.runtime();
        if comptime!(grouped) {
            rows = 0;
            let mut first = 0usize.runtime();
            for group in 0..all.first_group {
                first += counts[group] as usize;
            }
            // Tiles of the groups before.
            let mut before = 0usize.runtime();
            for group in 0..all.groups {
                let count = counts[all.first_group + group] as usize;
                let full = count >> all.large as usize;
                let rest = count - full * large;
                let is_small = rest > 0 && rest <= all.small;
                let own = select(all.rests != 0, select(is_small, 1, 0), full + select(rest > all.small, 1, 0));
                if row_tile >= before && row_tile < before + own {
                    let start = select(all.rests != 0, full, row_tile - before) * large;
                    first_row = first + start;
                    rows = select(count - start < large, count - start, large);
                    first_weight = group * all.outputs;
                }
                before += own;
                first += count;
            }
        }
        Share { first_row, rows, first_weight, output_tile: within / height }
    }
}

#[cfg(test)]
mod tests {
    use super::RowTiles;

    #[test]
    fn rests_go_to_smaller_tiles_where_they_have_room() {
        let counts = [0, 128, 130, 117, 300, 32];
        let large = RowTiles { large: 128, small: 32, rests: false };
        assert_eq!(large.number(&counts), 1 + 1 + 1 + 3);
        assert_eq!(RowTiles { rests: true, ..large }.number(&counts), 1 + 1);
        assert_eq!(RowTiles::of(128).number(&counts), 1 + 2 + 1 + 3 + 1);
    }
}
