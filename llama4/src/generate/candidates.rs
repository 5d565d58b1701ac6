use super::nucleus::Nucleus;
use super::rank::{Rank, any, keep_best};
use super::softmax::{sum, weigh};

/// Weights that are summed at once when a token is drawn.
const BLOCK: usize = 1024;

/// The tokens that can still be drawn, with their unnormalised probabilities, in the order of their ids.
///
/// The order is part of what a seed means: a draw walks it. The buffers are kept from token to token.
#[derive(Debug, Clone, Default)]
pub(super) struct Candidates {
    ids: Vec<u32>,
    weights: Vec<f32>,
    sums: Vec<f64>,
    ranks: Vec<Rank>,
    nucleus: Nucleus,
}

impl Candidates {
    /// Room to work in, of no meaning between two calls.
    pub(super) fn ranks(&mut self) -> &mut Vec<Rank> {
        &mut self.ranks
    }

    /// The whole vocabulary, or its `top_k` best, weighed at `temperature`. `peak` is the largest logit.
    pub(super) fn fill(&mut self, logits: &[f32], peak: f32, temperature: f32, top_k: usize) {
        self.ids.clear();
        self.weights.clear();
        if top_k == 0 || top_k >= logits.len() {
            self.ids.extend(0..logits.len() as u32);
            self.weights.extend_from_slice(logits);
        } else {
            keep_best(logits, top_k, &mut self.ranks);
            self.ranks.sort_unstable_by_key(|rank| rank.id());
            self.ids.extend(self.ranks.iter().map(|rank| rank.id()));
            self.weights.extend(self.ranks.iter().map(|rank| rank.value()));
        }
        weigh(&mut self.weights, peak, temperature);
    }

    /// Keeps the smallest set of best tokens that holds `top_p` of the weight.
    pub(super) fn keep_top_p(&mut self, top_p: f64) {
        let total = self.total();
        let border = self.nucleus.border(&self.ids, &self.weights, total, top_p);
        if let Some(border) = border {
            self.retain(border.value(), border.id());
        }
    }

    /// Keeps what is at least `min_p` times as likely as the best, whose weight is 1.
    pub(super) fn keep_min_p(&mut self, min_p: f32) {
        self.retain(min_p, u32::MAX);
    }

    /// The candidates and their probabilities, which sum to one.
    pub(super) fn distribution(&mut self) -> Vec<(u32, f64)> {
        let total = self.total();
        let pairs = self.ids.iter().zip(&self.weights);
        let possible = pairs.filter(|(_, weight)| **weight > 0.0);
        possible.map(|(&id, &weight)| (id, f64::from(weight) / total)).collect()
    }

    /// The token at the share `unit` of the distribution, `unit` in `[0, 1)`. `None` without candidates.
    pub(super) fn draw(&mut self, unit: f64) -> Option<u32> {
        let mut left = unit * self.total();
        let blocks = self.weights.chunks(BLOCK).zip(self.ids.chunks(BLOCK));
        for ((block, ids), weight) in blocks.zip(&self.sums) {
            if left >= *weight {
                left -= weight;
                continue;
            }
            for (&weight, &id) in block.iter().zip(ids) {
                if left < f64::from(weight) {
                    return Some(id);
                }
                left -= f64::from(weight);
            }
        }
        // The sums in two orders differ in their last bits; beyond the end by that much is still the last token.
        let last = self.weights.iter().rposition(|&weight| weight > 0.0);
        last.map(|at| self.ids[at])
    }

    /// The sum of the weights; leaves those of the blocks in `sums`.
    fn total(&mut self) -> f64 {
        self.sums.clear();
        self.sums.extend(self.weights.chunks(BLOCK).map(sum));
        self.sums.iter().sum()
    }

    /// Keeps the tokens above `floor`, and of those at it the ids up to `last`.
    fn retain(&mut self, floor: f32, last: u32) {
        const STRIDE: usize = 64;
        let len = self.ids.len();
        let mut kept = 0;
        for start in (0..len).step_by(STRIDE) {
            let end = len.min(start + STRIDE);
            // Most blocks of a vocabulary hold nothing likely.
            if !any(&self.weights[start..end], |weight| weight >= floor) {
                continue;
            }
            for at in start..end {
                let (id, weight) = (self.ids[at], self.weights[at]);
                self.ids[kept] = id;
                self.weights[kept] = weight;
                // Without a branch, which no processor could predict.
                kept += usize::from((weight > floor) | ((weight == floor) & (id <= last)));
            }
        }
        self.ids.truncate(kept);
        self.weights.truncate(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(weights: &[f32]) -> Candidates {
        Candidates { ids: (0..weights.len() as u32).collect(), weights: weights.to_vec(), ..Candidates::default() }
    }

    #[test]
    fn a_draw_walks_the_ids_in_order() {
        let mut some = candidates(&[0.25, 0.0, 0.5, 0.25]);
        let mut at = |unit| some.draw(unit).unwrap();
        assert_eq!([at(0.0), at(0.2499), at(0.25), at(0.7499), at(0.75)], [0, 0, 2, 2, 3]);
        assert_eq!(at(1.0 - 2_f64.powi(-53)), 3);
    }

    #[test]
    fn no_share_falls_beyond_the_last_possible_token() {
        let mut some = candidates(&[0.1, 0.7, 0.0, 0.0]);
        assert_eq!(some.draw(1.0), Some(1));
        assert_eq!(candidates(&[]).draw(0.5), None);
    }

    #[test]
    fn a_draw_crosses_blocks() {
        let mut many = candidates(&vec![1.0; 5 * BLOCK + 7]);
        for id in [0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 5, 5 * BLOCK + 6] {
            let unit = (id as f64 + 0.5) / (5 * BLOCK + 7) as f64;
            assert_eq!(many.draw(unit), Some(id as u32));
        }
    }

    #[test]
    fn top_k_keeps_the_order_of_the_ids() {
        let mut some = Candidates::default();
        some.fill(&[1.0, 3.0, 2.0, 3.0, f32::NEG_INFINITY], 3.0, 1.0, 3);
        assert_eq!(some.ids, [1, 2, 3]);
        assert_eq!(some.weights[0], 1.0);
    }

    #[test]
    fn the_nucleus_of_equal_tokens_has_the_lowest_ids() {
        let mut some = candidates(&[0.25, 1.0, 0.25, 0.25, 0.25]);
        some.keep_top_p(0.7);
        assert_eq!(some.ids, [0, 1, 2]);
    }
}
