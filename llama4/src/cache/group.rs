use burn::tensor::backend::Backend;
use burn::tensor::{BasicOps, Tensor, TensorKind};

use super::Piece;

/// Pieces that one operation can treat as a batch: consecutive rows, the same length and slots, and tokens that lie equally far apart in
/// the ragged batch.
///
/// Rows of the same length that begin alike are always one group, in every round, so that a batch of training sequences or of decode steps
/// costs as many operations as one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    /// The piece of the first row.
    pub(crate) first: Piece,
    /// Number of rows.
    pub(crate) rows: usize,
    /// Tokens from one row's piece to the next row's.
    stride: usize,
}

impl Group {
    /// Split the pieces of a round into as few groups as they make in their order.
    pub(crate) fn split(pieces: &[Piece]) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for &piece in pieces {
            if let Some(group) = groups.last_mut()
                && group.take(piece)
            {
                continue;
            }
            groups.push(Self { first: piece, rows: 1, stride: piece.len });
        }
        groups
    }

    fn take(&mut self, piece: Piece) -> bool {
        let Self { first, rows, stride } = *self;
        let alike = piece.len == first.len && piece.first_slot == first.first_slot && piece.row == first.row + rows;
        let apart = piece.offset.checked_sub(first.offset).filter(|apart| alike && *apart >= rows * first.len);
        match apart {
            // The second row sets the distance, the others keep it.
            Some(apart) if rows == 1 => self.stride = apart,
            Some(apart) if apart == rows * stride => {}
            _ => return false,
        }
        self.rows += 1;
        true
    }

    /// The group's tokens of a ragged tensor.
    ///
    /// # Shapes
    /// - tensor: `[tokens, heads, head_dim]`, the whole batch
    /// - output: `[rows, len, heads, head_dim]`
    pub(crate) fn tokens<B: Backend, K: TensorKind<B> + BasicOps<B>>(
        &self,
        tensor: &Tensor<B, 3, K>,
    ) -> Tensor<B, 4, K> {
        let [tokens, heads, head_dim] = tensor.dims();
        let Self { first, rows, stride } = *self;
        if rows * stride > tokens {
            // The last row is shorter than the distance between the others.
            let pieces = (0..rows).map(|row| tensor.clone().narrow(0, first.offset + row * stride, first.len));
            return Tensor::stack(pieces.collect(), 0);
        }
        // Whole strides are cut out and then narrowed; the last one must not reach beyond the batch.
        let begin = first.offset.min(tokens - rows * stride);
        tensor.clone().narrow(0, begin, rows * stride).reshape([rows, stride, heads, head_dim]).narrow(
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

    use super::super::{Span, rounds};
    use super::*;

    fn spans(lengths: &[usize]) -> Vec<Span> {
        let mut offset = 0;
        lengths
            .iter()
            .enumerate()
            .map(|(row, &len)| {
                let span = Span { row, past: 0, offset, len };
                offset += len;
                span
            })
            .collect()
    }

    #[test]
    fn equal_rows_are_one_group_in_every_round() {
        for round in rounds(&spans(&[10; 5]), Some(4)) {
            assert_eq!(Group::split(&round).len(), 1, "{round:?}");
        }
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
            for round in rounds(&spans(&lengths), Some(4)) {
                let groups = Group::split(&round);
                let found: Vec<usize> = groups
                    .iter()
                    .flat_map(|group| group.tokens(&numbers).into_data().iter::<usize>().collect::<Vec<_>>())
                    .collect();
                let expected: Vec<usize> =
                    round.iter().flat_map(|piece| piece.offset..piece.offset + piece.len).collect();
                assert_eq!(found, expected, "{lengths:?} {round:?}");
                assert_eq!(groups.iter().map(|group| group.rows).sum::<usize>(), round.len());
            }
        }
    }
}
