use rand::rngs::{SysRng, Xoshiro256PlusPlus};
use rand::{Rng, SeedableRng, TryRng};

use crate::error::GenerateError;

/// The random numbers of one sequence: xoshiro256++ seeded through SplitMix64, so the same on every platform.
#[derive(Debug, Clone)]
pub(super) struct SequenceRng(Xoshiro256PlusPlus);

impl SequenceRng {
    pub(super) fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// Uniform over the multiples of 2⁻⁵³ in `[0, 1)`. Takes exactly one number of the stream.
    pub(super) fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }
}

/// A seed from the operating system.
pub(super) fn entropy() -> Result<u64, GenerateError> {
    SysRng.try_next_u64().map_err(|error| GenerateError::Entropy { reason: error.to_string() })
}

/// The seed of sequence `index` of a run: the run's own for sequence 0, so that a prompt alone and the first of several
/// draw alike, and for the others one that no neighbouring seed leads to.
pub(super) fn sequence_seed(seed: u64, index: usize) -> u64 {
    seed ^ mix(index as u64)
}

/// A bijection with `mix(0) = 0` whose outputs look random (the finaliser of MurmurHash3).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_of_a_seed_is_pinned() {
        // The first output of xoshiro256++ whose state is SplitMix64's stream from 0.
        let mut rng = SequenceRng::new(0);
        assert_eq!(rng.unit(), (5_987_356_902_031_041_503_u64 >> 11) as f64 / 2_f64.powi(53));
        assert_eq!(rng.unit(), (7_051_070_477_665_621_255_u64 >> 11) as f64 / 2_f64.powi(53));
    }

    #[test]
    fn units_lie_in_the_half_open_interval() {
        let mut rng = SequenceRng::new(3);
        let mean = (0..10_000).map(|_| rng.unit()).inspect(|u| assert!((0.0..1.0).contains(u))).sum::<f64>() / 1e4;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
    }

    #[test]
    fn sequence_seeds_differ_and_the_first_is_the_seed_itself() {
        assert_eq!(sequence_seed(42, 0), 42);
        let mut seeds: Vec<u64> = (0..64).flat_map(|seed| (0..64).map(move |i| sequence_seed(seed, i))).collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 64 * 64);
    }

    #[test]
    fn entropy_gives_different_seeds() {
        assert_ne!(entropy().unwrap(), entropy().unwrap());
    }
}
