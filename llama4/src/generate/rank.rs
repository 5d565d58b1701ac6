//! The best tokens of a vocabulary, without sorting it.

/// A token's place among others: the larger value first, of equal values the lower id. The smallest rank is the best.
///
/// One integer, so that comparing two is one instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank(u64);

impl Rank {
    /// The rank of a logit or a weight. NaN has none that means anything.
    pub(super) fn new(value: f32, id: u32) -> Self {
        // -0 becomes 0: they are equal and must tie. Then the order of floats as that of integers, turned around.
        let bits = (value + 0.0).to_bits();
        let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        Self(u64::from(!ascending) << 32 | u64::from(id))
    }

    pub(super) fn id(self) -> u32 {
        self.0 as u32
    }

    pub(super) fn value(self) -> f32 {
        let ascending = !((self.0 >> 32) as u32);
        f32::from_bits(if ascending >> 31 == 1 { ascending ^ 1 << 31 } else { !ascending })
    }
}

/// Leaves the `count` best logits in `best`, in no order; fewer where fewer are above `-inf`.
pub(super) fn keep_best(logits: &[f32], count: usize, best: &mut Vec<Rank>) {
    const BLOCK: usize = 64;
    best.clear();
    let count = count.min(logits.len());
    if count == 0 {
        return;
    }
    // Room for as many again, so that the worse half is thrown out once for every `count` tokens that come in.
    let room = count + count.max(BLOCK);
    let mut floor = f32::NEG_INFINITY;
    for (block, first) in logits.chunks(BLOCK).zip((0..).step_by(BLOCK)) {
        if !any(block, |x| x > floor) {
            continue;
        }
        for (&x, id) in block.iter().zip(first..) {
            // Not `>=`: ids grow, so an equal logit further on ranks behind the one at the floor.
            if x > floor {
                best.push(Rank::new(x, id));
                if best.len() == room {
                    floor = cut(best, count);
                }
            }
        }
    }
    if best.len() > count {
        cut(best, count);
    }
}

/// Whether one value of the block passes. Looks at all of them: without an early exit it is a few vector instructions.
pub(super) fn any(block: &[f32], passes: impl Fn(f32) -> bool) -> bool {
    block.iter().fold(0, |some, &x| some | u32::from(passes(x))) != 0
}

/// Throws out all but the `count` best; returns the value of the worst left.
fn cut(best: &mut Vec<Rank>, count: usize) -> f32 {
    let (_, last, _) = best.select_nth_unstable(count - 1);
    let floor = last.value();
    best.truncate(count);
    floor
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(logits: &[f32], count: usize) -> Vec<u32> {
        let mut ranks = Vec::new();
        keep_best(logits, count, &mut ranks);
        ranks.sort_unstable();
        ranks.iter().map(|rank| rank.id()).collect()
    }

    /// Numbers without pattern, many of them equal.
    fn rough(len: usize) -> Vec<f32> {
        (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 22) as f32 / 64.0 - 8.0).collect()
    }

    #[test]
    fn ranks_order_by_value_then_id() {
        let values = [f32::MAX, 2.0, 1.5, 0.0, -1.0, -1.5, f32::MIN, f32::NEG_INFINITY];
        for pair in values.windows(2) {
            assert!(Rank::new(pair[0], 9) < Rank::new(pair[1], 1), "{pair:?}");
        }
        for value in values {
            assert!(Rank::new(value, 1) < Rank::new(value, 2));
            assert_eq!(Rank::new(value, 2).value(), value);
            assert_eq!(Rank::new(value, 2).id(), 2);
        }
        assert!(Rank::new(-0.0, 1) < Rank::new(0.0, 2));
        assert!(Rank::new(0.0, 1) < Rank::new(-0.0, 2));
    }

    #[test]
    fn the_best_are_those_of_a_full_sort() {
        for len in [1, 63, 64, 65, 1000, 5000] {
            let logits = rough(len);
            let mut all: Vec<u32> = (0..len as u32).collect();
            all.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
            for count in [1, 2, 40, 64, 500, len, len + 1] {
                assert_eq!(best(&logits, count), all[..count.min(len)], "{count} of {len}");
            }
        }
    }

    #[test]
    fn rising_and_equal_logits_are_the_worst_case_and_right() {
        let rising: Vec<f32> = (0..10_000).map(|i| i as f32).collect();
        assert_eq!(best(&rising, 3), [9999, 9998, 9997]);
        assert_eq!(best(&[1.0; 10_000], 3), [0, 1, 2]);
    }

    #[test]
    fn banned_tokens_are_never_among_the_best() {
        let mut logits = [f32::NEG_INFINITY; 100];
        logits[70] = -3.0;
        assert_eq!(best(&logits, 10), [70]);
        assert_eq!(best(&logits, 0), [0; 0]);
    }
}
