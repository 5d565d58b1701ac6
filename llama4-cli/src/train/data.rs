use anyhow::{Result, ensure};
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// Sequences for a step: what goes in, and what should come out, one position later.
pub(super) struct Sequences<'a> {
    pub(super) inputs: Vec<&'a [u32]>,
    pub(super) targets: Vec<&'a [u32]>,
}

/// The training text in a new random order every epoch. Which sequences a step sees depends on the step and the seed alone, so that a
/// resumed training goes on as if it had not stopped.
pub(super) struct Shuffled<'a> {
    tokens: &'a [u32],
    length: usize,
    batch: usize,
    seed: u64,
    epoch: Option<usize>,
    starts: Vec<usize>,
}

impl<'a> Shuffled<'a> {
    pub(super) fn new(tokens: &'a [u32], length: usize, batch: usize, seed: u64) -> Result<Self> {
        let shuffled = Self { tokens, length, batch, seed, epoch: None, starts: Vec::new() };
        ensure!(
            shuffled.steps_per_epoch() > 0,
            "{} training tokens are too few for one step of {batch} sequences of {length}",
            tokens.len()
        );
        Ok(shuffled)
    }

    pub(super) fn steps_per_epoch(&self) -> usize {
        // A random offset of up to one length is skipped, and the last target is one further.
        (self.tokens.len().saturating_sub(self.length + 1) / self.length) / self.batch
    }

    pub(super) fn step(&mut self, step: usize) -> Sequences<'a> {
        let steps = self.steps_per_epoch();
        let (epoch, place) = (step / steps, step % steps);
        if self.epoch != Some(epoch) {
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(self.seed.wrapping_add(epoch as u64));
            let offset = rng.random_range(0..self.length);
            let count = (self.tokens.len() - 1 - offset) / self.length;
            self.starts = (0..count).map(|index| offset + index * self.length).collect();
            self.starts.shuffle(&mut rng);
            self.epoch = Some(epoch);
        }
        let starts = &self.starts[place * self.batch..(place + 1) * self.batch];
        let windows =
            |shift: usize| starts.iter().map(|&at| &self.tokens[at + shift..at + shift + self.length]).collect();
        Sequences { inputs: windows(0), targets: windows(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_sees_each_position_at_most_once_and_targets_are_one_later() {
        let tokens: Vec<u32> = (0..1000).collect();
        let mut data = Shuffled::new(&tokens, 16, 4, 7).unwrap();
        let mut seen = std::collections::HashSet::new();
        for step in 0..data.steps_per_epoch() {
            let sequences = data.step(step);
            for (input, target) in sequences.inputs.iter().zip(&sequences.targets) {
                assert!(input.iter().zip(*target).all(|(a, b)| a + 1 == *b));
                assert!(input.iter().all(|id| seen.insert(*id)));
            }
        }
        assert!(seen.len() > 900, "{}", seen.len());
    }

    #[test]
    fn a_step_is_the_same_after_a_resume() {
        let tokens: Vec<u32> = (0..1000).collect();
        let mut straight = Shuffled::new(&tokens, 16, 4, 7).unwrap();
        for step in 0..20 {
            straight.step(step);
        }
        let mut resumed = Shuffled::new(&tokens, 16, 4, 7).unwrap();
        assert_eq!(straight.step(20).inputs, resumed.step(20).inputs);
    }
}
