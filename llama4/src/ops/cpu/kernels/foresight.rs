//! Which weight is multiplied next. Between two products of a decoded token one thread does small work and the others wait, while memory,
//! which is what a token's time goes to, does nothing: they ask for the next weight meanwhile. A model multiplies its weights in the same
//! order for every token, so what followed last time will follow again.

use std::collections::HashMap;

use super::matrix::Matrix;
use super::tile::Ahead;

/// Weights that are remembered: more than a model has.
const MOST: usize = 1 << 14;

/// Bytes by their address. They are asked for and never read, so they need not be there any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Span {
    start: usize,
    bytes: usize,
}

impl Span {
    fn of<T>(values: &[T]) -> Self {
        Self { start: values.as_ptr().addr(), bytes: size_of_val(values) }
    }

    /// One of `parts` nearly equal parts.
    fn part(self, part: usize, parts: usize) -> Self {
        let (from, to) = (self.bytes * part / parts, self.bytes * (part + 1) / parts);
        Self { start: self.start + from, bytes: to - from }
    }
}

/// A weight that is read soon: its scales, which are short, and its words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Coming([Span; 2]);

impl Coming {
    fn new(weights: &Matrix) -> Self {
        Self([Span::of(weights.scales()), Span::of(weights.words())])
    }

    /// One of `parts` nearly equal parts of it, the rows that a thread begins with.
    pub(super) fn part(self, part: usize, parts: usize) -> Self {
        Self(self.0.map(|span| span.part(part, parts)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|span| span.bytes == 0)
    }

    /// Ask for the next line of it, if there is one.
    pub(super) fn ask(&mut self) {
        if let Some(span) = self.0.iter_mut().find(|span| span.bytes > 0) {
            Ahead::fetch(std::ptr::without_provenance(span.start));
            let line = Ahead::LINE.min(span.bytes);
            *span = Span { start: span.start + line, bytes: span.bytes - line };
        }
    }
}

/// What followed what.
#[derive(Debug, Default)]
pub(super) struct Foresight {
    /// By the address of a weight, the one that came after it: among those that every token is multiplied with, and, apart from them, among
    /// those of groups, of which a token chooses.
    after: HashMap<usize, (Coming, usize)>,
    /// The last weight of one group.
    last: Option<usize>,
    /// The last weight, if it had several groups.
    last_chosen: Option<usize>,
}

impl Foresight {
    /// What will come after this product of `counts` rows of each group, if that is known.
    pub(super) fn next(&mut self, weights: &Matrix, counts: &[usize]) -> Coming {
        let (own, this) = (weights.words().as_ptr().addr(), (Coming::new(weights), counts.len()));
        if self.after.len() > MOST {
            self.after.clear();
        }
        let chosen = counts.len() > 1;
        let before = if chosen { self.last_chosen.replace(own) } else { self.last.replace(own) };
        if let Some(before) = before {
            self.after.insert(before, this);
        }
        if !chosen {
            self.last_chosen = None;
        } else if let Some((coming, groups)) = self.after.get(&own)
            && *groups == counts.len()
            && let Some(group) = counts.iter().position(|&count| count > 0)
        {
            // The second product of an expert is with what belongs to the same expert.
            return coming.part(group, *groups);
        }
        self.last.and_then(|last| self.after.get(&last)).map(|(coming, _)| *coming).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_token_knows_what_follows() {
        let values = vec![0.0_f32; 640];
        let [a, b] = [0, 64].map(|at| Matrix::floats(&values[at..at + 64], 8));
        let [up, down] = [128, 384].map(|at| Matrix::floats(&values[at..at + 256], 8));
        let mut foresight = Foresight::default();
        let mut token = |group: usize| {
            let mut counts = [0; 4];
            counts[group] = 1;
            [(&a, &[1][..]), (&up, &counts), (&down, &counts), (&b, &[1])]
                .map(|(weights, counts)| foresight.next(weights, counts))
        };
        assert_eq!(token(1)[3], Coming::default(), "nothing has followed yet");
        // After the first product of an expert its second, then what all tokens are multiplied with.
        let [after_a, after_up, after_down, after_b] = token(2);
        assert_eq!(after_a, Coming::new(&b));
        assert_eq!(after_up, Coming::new(&down.band(16..24)));
        assert_eq!(after_down, Coming::new(&b));
        assert_eq!(after_b, Coming::new(&a));
    }

    #[test]
    fn every_line_is_asked_for_once() {
        let values = vec![0.0_f32; 1000];
        let whole = Coming::new(&Matrix::floats(&values, 8));
        let bytes: usize = (0..3).map(|part| whole.part(part, 3).0[1].bytes).sum();
        assert_eq!(bytes, 4000);
        let (mut coming, mut asked) = (whole.part(1, 2), 0);
        while !coming.is_empty() {
            coming.ask();
            asked += 1;
        }
        assert_eq!(asked, 2000_usize.div_ceil(64));
        coming.ask();
    }
}
