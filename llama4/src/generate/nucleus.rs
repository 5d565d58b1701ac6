//! The smallest set of most likely tokens that reaches a share of the probability, found without sorting.

use super::rank::{Rank, any};

/// Room to work in, kept from token to token.
#[derive(Debug, Clone, Default)]
pub(super) struct Nucleus {
    masses: Vec<f64>,
    pool: Vec<Rank>,
}

impl Nucleus {
    /// The rank of the last token of the smallest set of best ones that holds the share `top_p` of `total`, the sum
    /// of the weights; the set has one token at least. `None` without tokens. Weights lie within 0 to 1.
    ///
    /// One pass sorts the weight, not the tokens, into buckets; only the tokens of the bucket in which the share is
    /// reached are then looked at one by one.
    pub(super) fn border(&mut self, ids: &[u32], weights: &[f32], total: f64, top_p: f64) -> Option<Rank> {
        // What weighs less than an equal part of the share outside is not in the set: all of it together stays under
        // that share, so the rest reaches the goal without it. A hair less, for rounding. It is most of a vocabulary.
        let floor = ((1.0 - top_p) * total / weights.len() as f64 * 0.999) as f32;
        let blocks = weights.chunks(BLOCK).zip(ids.chunks(BLOCK));
        let blocks = blocks.filter(|(weights, _)| any(weights, |weight| weight >= floor));
        self.masses.clear();
        self.masses.resize(BUCKETS, 0.0);
        for &weight in blocks.clone().flat_map(|(weights, _)| weights) {
            self.masses[bucket(weight)] += f64::from(weight);
        }
        let goal = top_p * total;
        let (crossed, before) = crossing(&self.masses, goal)?;
        self.pool.clear();
        for (weights, ids) in blocks {
            let tokens = weights.iter().zip(ids);
            let tokens = tokens.filter(|(weight, _)| bucket(**weight) == crossed);
            self.pool.extend(tokens.map(|(&weight, &id)| Rank::new(weight, id)));
        }
        border(&mut self.pool, before, goal)
    }
}

/// The bucket in which the goal is reached, or else the last one with a mass; and the mass before it.
fn crossing(masses: &[f64], goal: f64) -> Option<(usize, f64)> {
    let mut reached = 0.0;
    let mut last = None;
    for (bucket, &mass) in masses.iter().enumerate().filter(|(_, mass)| **mass > 0.0) {
        last = Some((bucket, reached));
        reached += mass;
        if reached >= goal {
            break;
        }
    }
    last
}

/// Tokens passed over at once.
const BLOCK: usize = 64;

/// Sixteen buckets for each factor of two, down to the smallest normal `f32`.
const BUCKETS: usize = 2048;

/// The bucket of a weight within 0 to 1, of the largest first: the leading bits of a float, subtracted from those of 1.
fn bucket(weight: f32) -> usize {
    let below_one = 1.0_f32.to_bits().wrapping_sub(weight.to_bits()) as usize;
    (below_one >> 19).min(BUCKETS - 1)
}

/// The first rank at which the weights, added to `reached`, come to `goal`; the last one if none does, for the sums
/// before may have been rounded up. Halves the pool around it: the expected work is linear.
fn border(mut pool: &mut [Rank], mut reached: f64, goal: f64) -> Option<Rank> {
    const FEW: usize = 32;
    while pool.len() > FEW {
        let half = pool.len() / 2;
        let (better, _, _) = pool.select_nth_unstable(half);
        let weight: f64 = better.iter().map(|rank| f64::from(rank.value())).sum();
        if reached + weight >= goal {
            pool = &mut pool[..half];
        } else {
            reached += weight;
            pool = &mut pool[half..];
        }
    }
    pool.sort_unstable();
    for &rank in pool.iter() {
        reached += f64::from(rank.value());
        if reached >= goal {
            return Some(rank);
        }
    }
    pool.last().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, by a full sort.
    fn sorted_border(weights: &[f32], goal: f64) -> Option<Rank> {
        let mut ranks: Vec<Rank> = weights.iter().zip(0..).map(|(&w, id)| Rank::new(w, id)).collect();
        ranks.sort_unstable();
        let mut reached = 0.0;
        let found = ranks.iter().find(|rank| {
            reached += f64::from(rank.value());
            reached >= goal
        });
        found.or(ranks.last()).copied()
    }

    fn found_border(weights: &[f32], share: f64) -> Option<Rank> {
        let ids: Vec<u32> = (0..weights.len() as u32).collect();
        Nucleus::default().border(&ids, weights, total(weights), share)
    }

    fn total(weights: &[f32]) -> f64 {
        weights.iter().map(|&weight| f64::from(weight)).sum()
    }

    #[test]
    fn the_border_is_that_of_a_full_sort() {
        // Without pattern, many of them equal; over a wide range, and all in one bucket.
        let rough = |i: u32| (i.wrapping_mul(2_654_435_761) >> 22) as f32;
        let wide: Vec<f32> = (0..2000).map(|i| (rough(i) / -12.0).exp()).collect();
        let narrow: Vec<f32> = (0..2000).map(|i| 0.97 + rough(i) * 1e-5).collect();
        for weights in [wide, narrow] {
            // So many shares that the border comes to lie on every side of every cut.
            for share in (0..500).map(|step| f64::from(step) / 500.0) {
                let expected = sorted_border(&weights, share * total(&weights));
                assert_eq!(found_border(&weights, share), expected, "{share}");
            }
        }
    }

    #[test]
    fn a_goal_out_of_reach_takes_the_last_possible_token() {
        assert_eq!(found_border(&[0.5, 1.0, 0.0], 1.5), Some(Rank::new(0.5, 0)));
        assert_eq!(found_border(&[], 0.5), None);
        assert_eq!(found_border(&[0.0, 0.0], 0.0), None);
    }

    #[test]
    fn buckets_follow_the_weights() {
        assert_eq!(bucket(1.0), 0);
        assert_eq!(bucket(0.5), 16);
        assert_eq!(bucket(f32::MIN_POSITIVE), 126 * 16);
        assert_eq!(bucket(0.0), 127 * 16);
    }
}
