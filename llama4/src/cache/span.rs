use std::ops::Range;

/// New tokens of one sequence: where they stand in the batch and in the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Row of the cache.
    pub row: usize,
    /// Tokens of the sequence that are cached already; the position of the first new one.
    pub past: usize,
    /// Index of the first new token in the ragged batch.
    pub offset: usize,
    /// Number of new tokens.
    pub len: usize,
}

/// Consecutive queries of one sequence within one chunk: plain causal attention over slots `0..first_slot + len`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Row of the cache.
    pub row: usize,
    /// Index of the first query in the ragged batch.
    pub offset: usize,
    /// Number of queries.
    pub len: usize,
    /// Slot of the first query's own key.
    pub first_slot: usize,
}

impl Piece {
    /// Slots that the piece's own keys are written to.
    pub fn written(&self) -> Range<usize> {
        self.first_slot..self.first_slot + self.len
    }

    /// Slots that query `index` of the piece sees.
    pub fn visible(&self, index: usize) -> Range<usize> {
        0..self.first_slot + index + 1
    }

    /// Number of slots that the last query sees.
    pub fn keys(&self) -> usize {
        self.first_slot + self.len
    }
}

/// Cut spans at chunk borders, instead of masking: no `[seq, seq]` mask is ever made.
///
/// A round has at most one piece of each sequence, so that writing a round's keys overwrites only what no later query sees: a chunked
/// layer works through a long prefill with one chunk of memory. Without chunks there is one round.
pub fn rounds(spans: &[Span], chunk: Option<usize>) -> Vec<Vec<Piece>> {
    let mut rounds: Vec<Vec<Piece>> = Vec::new();
    for span in spans {
        let end = span.past + span.len;
        let mut position = span.past;
        for round in 0.. {
            let first_slot = chunk.map_or(position, |chunk| position % chunk);
            let border = chunk.map_or(end, |chunk| position - first_slot + chunk);
            let len = border.min(end) - position;
            if rounds.len() == round {
                rounds.push(Vec::new());
            }
            let offset = span.offset + position - span.past;
            rounds[round].push(Piece { row: span.row, offset, len, first_slot });
            position += len;
            if position == end {
                break;
            }
        }
    }
    rounds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(past: usize, len: usize) -> Span {
        Span { row: 0, past, offset: 0, len }
    }

    /// Absolute positions that `position` sees in a chunked layer, by way of one decode step.
    fn visible_keys(position: usize, chunk: Option<usize>) -> Range<usize> {
        let rounds = rounds(&[span(position, 1)], chunk);
        let piece = rounds[0][0];
        let base = position - piece.first_slot;
        let slots = piece.visible(0);
        base + slots.start..base + slots.end
    }

    #[test]
    fn local_layers_forget_at_the_chunk_border() {
        assert_eq!(visible_keys(3, Some(4)), 0..4);
        assert_eq!(visible_keys(4, Some(4)), 4..5);
        assert_eq!(visible_keys(4, None), 0..5);
    }

    #[test]
    fn a_prefill_is_cut_at_chunk_borders() {
        let pieces: Vec<_> = rounds(&[span(3, 7)], Some(4)).concat();
        let seen: Vec<_> = pieces.iter().map(|piece| (piece.offset, piece.len, piece.first_slot)).collect();
        assert_eq!(seen, [(0, 1, 3), (1, 4, 0), (5, 2, 0)]);
    }

    #[test]
    fn a_round_has_one_piece_of_each_sequence() {
        let spans = [Span { row: 0, past: 0, offset: 0, len: 9 }, Span { row: 1, past: 2, offset: 9, len: 1 }];
        let rows: Vec<Vec<usize>> =
            rounds(&spans, Some(4)).iter().map(|round| round.iter().map(|piece| piece.row).collect()).collect();
        assert_eq!(rows, [vec![0, 1], vec![0], vec![0]]);
    }
}
