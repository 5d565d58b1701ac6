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
    /// Slots of the piece's own keys.
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

/// The spans of a pass, cut at chunk borders instead of masked: no `[seq, seq]` mask is ever made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pieces {
    /// Pieces that go on in a chunk whose beginning is cached: at most one a sequence, its first.
    pub continuing: Vec<Piece>,
    /// Pieces that begin a chunk. They see new keys only, so they need no cache, and all of them are independent.
    pub fresh: Vec<Piece>,
    /// Of `fresh`, each sequence's last: what the cache has to hold afterwards. A chunked layer works through a long prefill with one chunk of
    /// memory, and never writes keys that no later query could see.
    pub kept: Vec<Piece>,
}

impl Pieces {
    /// Cut `spans` into pieces; without a chunk size each span is one.
    pub fn cut(spans: &[Span], chunk: Option<usize>) -> Self {
        let mut pieces = Self::default();
        for span in spans {
            let end = span.past + span.len;
            let mut position = span.past;
            while position < end {
                let first_slot = chunk.map_or(position, |chunk| position % chunk);
                let border = chunk.map_or(end, |chunk| position - first_slot + chunk);
                let len = border.min(end) - position;
                let piece = Piece { row: span.row, offset: span.offset + position - span.past, len, first_slot };
                position += len;
                if first_slot > 0 {
                    pieces.continuing.push(piece);
                } else {
                    pieces.fresh.push(piece);
                    if position == end {
                        pieces.kept.push(piece);
                    }
                }
            }
        }
        pieces
    }

    /// All pieces: first those that continue, then those that begin, each in the order of the batch.
    pub fn iter(&self) -> impl Iterator<Item = &Piece> {
        self.continuing.iter().chain(&self.fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(past: usize, len: usize) -> Span {
        Span { row: 0, past, offset: 0, len }
    }

    /// Absolute positions that `position` sees, by way of one decode step.
    fn visible_keys(position: usize, chunk: Option<usize>) -> Range<usize> {
        let pieces = Pieces::cut(&[span(position, 1)], chunk);
        let piece = pieces.iter().next().expect("a piece");
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
        let pieces = Pieces::cut(&[span(3, 7)], Some(4));
        let seen: Vec<_> = pieces.iter().map(|piece| (piece.offset, piece.len, piece.first_slot)).collect();
        assert_eq!(seen, [(0, 1, 3), (1, 4, 0), (5, 2, 0)]);
        assert_eq!((pieces.continuing.len(), &pieces.kept[..]), (1, &pieces.fresh[1..]));
    }

    #[test]
    fn what_continues_keeps_its_chunk() {
        // Nothing new begins, so nothing but the piece itself is written.
        let pieces = Pieces::cut(&[span(5, 2)], Some(8));
        assert_eq!((pieces.continuing.len(), pieces.fresh.len(), pieces.kept.len()), (1, 0, 0));
        let pieces = Pieces::cut(&[span(5, 2), Span { row: 1, past: 0, offset: 2, len: 3 }], None);
        assert_eq!((pieces.continuing.len(), pieces.kept), (1, pieces.fresh));
    }
}
