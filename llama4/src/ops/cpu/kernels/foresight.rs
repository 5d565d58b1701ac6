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

/// Weights of one product, at most: three that every token reads, or two and those of an expert.
const WEIGHTS: usize = 3;

/// What is read soon: of each weight its scales, which are short, and its words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Coming([Span; 2 * WEIGHTS]);

impl Coming {
    /// # Panics
    /// If they are more than a product has.
    fn new(weights: &[Matrix]) -> Self {
        assert!(weights.len() <= WEIGHTS, "{} weights in one product", weights.len());
        let mut coming = Self::default();
        for (spans, weight) in coming.0.chunks_exact_mut(2).zip(weights) {
            spans.copy_from_slice(&[Span::of(weight.scales()), Span::of(weight.words())]);
        }
        coming
    }

    /// One of `parts` nearly equal parts of each weight, the rows that a thread begins with.
    pub(super) fn part(self, part: usize, parts: usize) -> Self {
        Self(self.0.map(|span| span.part(part, parts)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|span| span.bytes == 0)
    }

    /// This, then the first weight of `other`.
    fn and(mut self, other: Self) -> Self {
        if let Some(spans) = self.0.chunks_exact_mut(2).find(|spans| spans.iter().all(|span| span.bytes == 0)) {
            spans.copy_from_slice(&other.0[..2]);
        }
        self
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

/// The weights that a product reads.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reading {
    /// Those that every token is multiplied with.
    always: Coming,
    /// That of all experts, of which a token chooses.
    experts: Coming,
    /// How many those are.
    count: usize,
    /// The one that was chosen.
    chosen: Option<usize>,
    /// Address of the first weight, by which the product is known.
    place: usize,
}

impl Reading {
    /// `weights`, at most three with the experts' own, and of `experts` those of the chosen one.
    pub(super) fn new(weights: &[Matrix], experts: Option<(&Matrix, usize, Option<usize>)>) -> Self {
        let place = weights.first().or(experts.as_ref().map(|(experts, ..)| *experts));
        Self {
            always: Coming::new(weights),
            experts: experts.map(|(experts, ..)| Coming::new(&[*experts])).unwrap_or_default(),
            count: experts.map_or(0, |(_, count, _)| count),
            chosen: experts.and_then(|(.., chosen)| chosen),
            place: place.map_or(0, |weight| weight.words().as_ptr().addr()),
        }
    }

    /// A product of `counts` rows of each group.
    pub(super) fn of_groups(weights: &Matrix, counts: &[usize]) -> Self {
        match counts {
            [_] => Self::new(&[*weights], None),
            _ => Self::new(&[], Some((weights, counts.len(), counts.iter().position(|&count| count > 0)))),
        }
    }

    /// What `following` reads, as far as it is known after this product: what belongs to the same expert, if both choose among as many.
    fn before(&self, following: &Self) -> Coming {
        match self.chosen {
            Some(chosen) if self.count == following.count => {
                following.always.and(following.experts.part(chosen, self.count))
            }
            _ => following.always,
        }
    }
}

/// What followed what.
#[derive(Debug, Default)]
pub(super) struct Foresight {
    /// By the place of a product, the one that came after it: among those with weights that every token is multiplied with, and, apart from
    /// them, among those of experts alone.
    after: HashMap<usize, Reading>,
    /// The last with weights of every token.
    last: Option<usize>,
    /// The last one, if it was of experts alone.
    last_chosen: Option<usize>,
}

impl Foresight {
    /// What will come after this product, if that is known.
    pub(super) fn next(&mut self, this: Reading) -> Coming {
        if self.after.len() > MOST {
            self.after.clear();
        }
        let of_experts = this.always.is_empty();
        let before = if of_experts { &mut self.last_chosen } else { &mut self.last };
        if let Some(before) = before.replace(this.place) {
            self.after.insert(before, this);
        }
        if !of_experts {
            self.last_chosen = None;
        } else if let Some(following) = self.after.get(&this.place) {
            let coming = this.before(following);
            if !coming.is_empty() {
                return coming;
            }
        }
        self.last.and_then(|last| self.after.get(&last)).map(|following| this.before(following)).unwrap_or_default()
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
                .map(|(weights, counts)| foresight.next(Reading::of_groups(weights, counts)))
        };
        assert_eq!(token(1)[3], Coming::default(), "nothing has followed yet");
        // After the first product of an expert its second, then what all tokens are multiplied with.
        let [after_a, after_up, after_down, after_b] = token(2);
        assert_eq!(after_a, Coming::new(&[b]));
        assert_eq!(after_up, Coming::new(&[down.band(16..24)]));
        assert_eq!(after_down, Coming::new(&[b]));
        assert_eq!(after_b, Coming::new(&[a]));
    }

    #[test]
    fn an_expert_beside_a_weight_of_all_is_known_once_it_is_chosen() {
        let values = vec![0.0_f32; 640];
        let [a, up, down] = [0, 64, 128].map(|at| Matrix::floats(&values[at..at + 64], 8));
        let [ups, downs] = [192, 448].map(|at| Matrix::floats(&values[at..at + 192], 8));
        let mut foresight = Foresight::default();
        let mut token = |expert: usize| {
            [
                Reading::new(&[a], None),
                Reading::new(&[up], Some((&ups, 3, Some(expert)))),
                Reading::new(&[down], Some((&downs, 3, Some(expert)))),
            ]
            .map(|reading| foresight.next(reading))
        };
        assert_eq!(token(0)[2], Coming::default(), "nothing has followed yet");
        let [after_a, after_up, after_down] = token(2);
        assert_eq!(after_a, Coming::new(&[up]), "which expert is not known yet");
        assert_eq!(after_up, Coming::new(&[down, downs.band(16..24)]));
        assert_eq!(after_down, Coming::new(&[a]));
    }

    #[test]
    fn every_line_is_asked_for_once() {
        let values = vec![0.0_f32; 1000];
        let whole = Coming::new(&[Matrix::floats(&values, 8)]);
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
