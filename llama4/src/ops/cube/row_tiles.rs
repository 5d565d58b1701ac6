//! Rows that are sorted by group, in tiles of rows of one group: what a cube of a product has to do.

use cubecl::prelude::*;

/// Words of an entry of the table of tiles.
pub(super) const ENTRY: usize = 4;

/// Tiles of rows that are taken together, so that they read a tile of the weight at about the same time.
const BAND: usize = 16;

/// Tiles of `large` rows, and those of the last rows of groups that have room in `small`. For every tile: its first row of `x`, the number of
/// its rows, the first row of its group's weight, and nothing.
pub(super) fn row_tiles(counts: &[usize], outputs: usize, large: usize, small: usize) -> [Vec<u32>; 2] {
    let mut tables = [Vec::new(), Vec::new()];
    let mut first = 0;
    for (group, &count) in counts.iter().enumerate() {
        for start in (0..count).step_by(large) {
            let rows = large.min(count - start);
            let entry = [first + start, rows, group * outputs, 0];
            tables[usize::from(rows <= small && small < large)].extend(entry.map(|value| value as u32));
        }
        first += count;
    }
    tables
}

/// What a cube has to do.
#[derive(CubeType)]
pub(super) struct Share {
    pub(super) first_row: usize,
    /// How many rows of the tile there are.
    pub(super) rows: usize,
    /// The first row of the group's weight.
    pub(super) first_weight: usize,
    pub(super) output_tile: usize,
}

#[cube]
impl Share {
    /// That of the cube at `CUBE_POS`, of tiles of at most `most` rows. Where rows are of one group, there need not be a table.
    pub(super) fn of_cube(
        table: &Array<Line<u32>>,
        all_rows: usize,
        row_tiles: usize,
        output_tiles: usize,
        #[comptime] most: usize,
        #[comptime] grouped: bool,
    ) -> Share {
        let band = CUBE_POS / (BAND * output_tiles);
        let within = CUBE_POS % (BAND * output_tiles);
        let height = select(band * BAND + BAND < row_tiles, BAND, row_tiles - band * BAND);
        let row_tile = band * BAND + within % height;
        let mut first_row = row_tile * most;
        let mut rows = most.runtime();
        let mut first_weight = 0usize.runtime();
        if comptime!(grouped) {
            let entry = table[row_tile];
            first_row = entry[0] as usize;
            rows = entry[1] as usize;
            first_weight = entry[2] as usize;
        } else if first_row + rows > all_rows {
            rows = all_rows - first_row;
        }
        Share { first_row, rows, first_weight, output_tile: within / height }
    }
}
