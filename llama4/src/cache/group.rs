use burn::tensor::backend::Backend;
use burn::tensor::{BasicOps, Tensor, TensorKind};

use super::Piece;

/// Pieces that one operation can treat as a batch: the same length and slots, and tokens that lie equally far apart in the ragged
/// batch.
///
/// Rows of the same length that begin alike are one group, and so are all whole chunks of a prefill: a batch of training sequences or of
/// decode steps costs as many operations as one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    /// The first piece.
    pub(crate) first: Piece,
    /// Number of pieces.
    pub(crate) count: usize,
    /// Tokens from one piece to the next.
    stride: usize,
}

impl Group {
    /// Split pieces into as few groups as they make in their order, each of consecutive rows of the cache.
    pub(crate) fn of_rows(pieces: &[Piece]) -> Vec<Self> {
        Self::split(pieces, |group, piece| piece.row == group.first.row + group.count)
    }

    /// Split pieces into as few groups as they make in their order, of whatever rows: for pieces that need no cache.
    pub(crate) fn of_any(pieces: &[Piece]) -> Vec<Self> {
        Self::split(pieces, |_, _| true)
    }

    fn split(pieces: &[Piece], fits: impl Fn(&Self, &Piece) -> bool) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for piece in pieces {
            if let Some(group) = groups.last_mut()
                && fits(group, piece)
                && group.take(piece)
            {
                continue;
            }
            groups.push(Self { first: *piece, count: 1, stride: piece.len });
        }
        groups
    }

    fn take(&mut self, piece: &Piece) -> bool {
        let Self { first, count, stride } = *self;
        let alike = piece.len == first.len && piece.first_slot == first.first_slot;
        let apart = piece.offset.checked_sub(first.offset).filter(|apart| alike && *apart >= count * first.len);
        match apart {
            // The second piece sets the distance, the others keep it.
            Some(apart) if count == 1 => self.stride = apart,
            Some(apart) if apart == count * stride => {}
            _ => return false,
        }
        self.count += 1;
        true
    }

    /// The group's tokens of a ragged tensor.
    ///
    /// # Shapes
    /// - tensor: `[tokens, heads, head_dim]`, the whole batch
    /// - output: `[count, len, heads, head_dim]`
    pub(crate) fn tokens<B: Backend, K: TensorKind<B> + BasicOps<B>>(
        &self,
        tensor: &Tensor<B, 3, K>,
    ) -> Tensor<B, 4, K> {
        let [tokens, heads, head_dim] = tensor.dims();
        let Self { first, count, stride } = *self;
        if count * stride > tokens {
            // The last piece has fewer tokens behind it than lie between the others.
            let pieces = (0..count).map(|at| tensor.clone().narrow(0, first.offset + at * stride, first.len));
            return Tensor::stack(pieces.collect(), 0);
        }
        // Whole strides are cut out and then narrowed; the last one must not reach beyond the batch.
        let begin = first.offset.min(tokens - count * stride);
        tensor.clone().narrow(0, begin, count * stride).reshape([count, stride, heads, head_dim]).narrow(
            1,
            first.offset - begin,
            first.len,
        )
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Int;
    use burn_ndarray::NdArray;

    use super::super::{Pieces, Span};
    use super::*;

    fn spans(lengths: &[usize]) -> Vec<Span> {
        let mut offset = 0;
        let spans = lengths.iter().enumerate().map(|(row, &len)| {
            let span = Span { row, past: 0, offset, len };
            offset += len;
            span
        });
        spans.collect()
    }

    #[test]
    fn equal_sequences_are_one_group() {
        let pieces = Pieces::cut(&spans(&[12; 5]), Some(4));
        assert_eq!(Group::of_any(&pieces.fresh).len(), 1);
        assert_eq!(Group::of_rows(&pieces.kept).len(), 1);
        let decode: Vec<Span> = (0..4).map(|row| Span { row, past: 6, offset: row, len: 1 }).collect();
        assert_eq!(Group::of_rows(&Pieces::cut(&decode, Some(4)).continuing).len(), 1);
        assert_eq!(Group::of_rows(&Pieces::cut(&decode, None).continuing).len(), 1);
    }

    #[test]
    fn rows_that_do_not_follow_one_another_are_apart() {
        let spans = [0, 2].map(|row| Span { row, past: 0, offset: row / 2, len: 1 });
        assert_eq!(Group::of_rows(&Pieces::cut(&spans, None).fresh).len(), 2);
        assert_eq!(Group::of_any(&Pieces::cut(&spans, None).fresh).len(), 1);
    }

    #[test]
    fn groups_hold_the_tokens_of_their_pieces() {
        for lengths in [
            vec![10; 3],
            vec![10, 10, 3],
            vec![3, 10, 10],
            vec![1, 2, 3],
            vec![7],
            vec![4, 4, 9, 9, 1],
            vec![10, 5],
            vec![9, 9, 6],
        ] {
            let total: i64 = lengths.iter().sum::<usize>() as i64;
            let numbers = Tensor::<NdArray, 1, Int>::arange(0..total, &Default::default());
            let numbers: Tensor<NdArray, 3, Int> = numbers.reshape([total as usize, 1, 1]);
            let pieces = Pieces::cut(&spans(&lengths), Some(4));
            for (groups, pieces) in
                [(Group::of_any(&pieces.fresh), &pieces.fresh), (Group::of_rows(&pieces.kept), &pieces.kept)]
            {
                let tokens = |group: &Group| {
                    group.tokens(&numbers).into_data().iter::<i64>().map(|at| at as usize).collect::<Vec<_>>()
                };
                let found: Vec<usize> = groups.iter().flat_map(tokens).collect();
                let expected: Vec<usize> =
                    pieces.iter().flat_map(|piece| piece.offset..piece.offset + piece.len).collect();
                assert_eq!(found, expected, "{lengths:?}");
                assert_eq!(groups.iter().map(|group| group.count).sum::<usize>(), pieces.len());
            }
        }
    }
}
