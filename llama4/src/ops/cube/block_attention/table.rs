//! Blocks of queries, and where they and their keys are.

use cubecl::prelude::*;

use crate::cache::Piece;

/// Keys or values of an attention: where they are.
pub(super) struct Layout {
    /// Values of a row of the cache, or of a token.
    pub(super) row: usize,
    /// Values from a key to the next, and from a head to the next.
    pub(super) key: usize,
    pub(super) head: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    /// Whether keys are found by the row of the cache rather than by the tokens themselves.
    pub(super) cached: bool,
}

/// For every block of queries two lines, and how many queries there are in all: its first query in the batch and in the output, the number of its
/// queries, the keys before the first one's own; and where the piece's keys begin, in vectors of `values`. Blocks that see most come first, since they take longest.
pub(super) fn blocks(pieces: &[Piece], most: usize, layout: &Layout, values: usize) -> (Vec<u32>, usize) {
    let mut entries = Vec::new();
    let mut output = 0;
    for piece in pieces {
        let keys = layout.row / values * if layout.cached { piece.row } else { piece.offset };
        for start in (0..piece.len).step_by(most) {
            let (queries, past) = (most.min(piece.len - start), piece.first_slot + start);
            entries.push([piece.offset + start, output + start, queries, past, keys, 0, 0, 0]);
        }
        output += piece.len;
    }
    entries.sort_by_key(|entry| std::cmp::Reverse(entry[2] + entry[3]));
    (entries.into_iter().flatten().map(|value| value as u32).collect(), output)
}

/// Where a block of queries of one piece and its keys are.
#[derive(CubeType)]
pub(super) struct Place {
    /// The first query, in the batch and in the output.
    pub(super) query: usize,
    pub(super) output: usize,
    /// Number of queries.
    pub(super) queries: usize,
    /// Keys before the first query's own.
    pub(super) past: usize,
    /// The first vector of the piece's first key, of the first head.
    pub(super) keys: usize,
}

#[cube]
impl Place {
    /// Entry `number` of the table that [`blocks`] makes.
    pub(super) fn read(table: &Array<Line<u32>>, number: usize) -> Place {
        let (first, second) = (table[2 * number], table[2 * number + 1]);
        Place {
            query: first[0] as usize,
            output: first[1] as usize,
            queries: first[2] as usize,
            past: first[3] as usize,
            keys: second[0] as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Layout, blocks};
    use crate::cache::Piece;

    #[test]
    fn blocks_that_see_most_come_first() {
        let cached = |cached| Layout { row: 8000, key: 128, head: 1280, kv_heads: 2, head_dim: 128, cached };
        let pieces = [
            Piece { row: 3, offset: 5, len: 130, first_slot: 40 },
            Piece { row: 1, offset: 200, len: 2, first_slot: 500 },
        ];
        let (table, tokens) = blocks(&pieces, 128, &cached(true), 8);
        assert_eq!(tokens, 132);
        // Query, its place in the output, queries, keys before; keys.
        let seen: Vec<_> = table.chunks(8).map(|entry| entry[..5].to_vec()).collect();
        assert_eq!(seen, [[200, 130, 2, 500, 1000], [133, 128, 2, 168, 3000], [5, 0, 128, 40, 3000]]);
        let (table, _) = blocks(&pieces[..1], 128, &cached(false), 8);
        assert!(table.chunks(8).all(|entry| entry[4] == 5000), "fresh keys begin with the piece");
    }
}
