use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// Everything that decides how a training goes, apart from model and data. Kept beside the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub(crate) struct Recipe {
    /// Optimiser steps
    #[arg(long, default_value_t = 2000)]
    pub(crate) steps: usize,
    /// Sequences a step
    #[arg(long, default_value_t = 32)]
    pub(crate) batch_size: usize,
    /// Tokens of a sequence
    #[arg(long, default_value_t = 512)]
    pub(crate) sequence_length: usize,
    /// Highest learning rate, reached after the warm-up
    #[arg(long, default_value_t = 2e-3)]
    pub(crate) learning_rate: f64,
    /// Learning rate at the end, as a share of the highest
    #[arg(long, default_value_t = 0.1)]
    pub(crate) final_share: f64,
    /// Steps over which the learning rate rises from zero
    #[arg(long, default_value_t = 200)]
    pub(crate) warmup: usize,
    /// Weight decay of AdamW
    #[arg(long, default_value_t = 0.1)]
    pub(crate) weight_decay: f32,
    /// Largest norm of all gradients together
    #[arg(long, default_value_t = 1.0)]
    pub(crate) clip: f32,
    /// Share of values dropped from what each attention and feed-forward adds, while training
    #[arg(long, default_value_t = 0.1)]
    pub(crate) dropout: f64,
    /// Run every expert on all tokens while training: the same result, quicker on a GPU where experts are few
    #[arg(long)]
    pub(crate) every_expert: bool,
    /// Weight of the load-balancing loss of the routers
    #[arg(long, default_value_t = 0.01)]
    pub(crate) balance: f64,
    /// Seed of weights, data order and dropout
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

impl Recipe {
    /// Learning rate of `step`, counted from 0: a linear rise, then half a cosine down to the final share.
    pub(crate) fn rate(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.learning_rate * (step + 1) as f64 / self.warmup as f64;
        }
        let decay = (self.steps - self.warmup).max(1) as f64;
        let progress = ((step - self.warmup) as f64 / decay).min(1.0);
        let share = self.final_share + (1.0 - self.final_share) * 0.5 * (1.0 + (PI * progress).cos());
        self.learning_rate * share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_and_falls() {
        let recipe = Recipe {
            steps: 110,
            warmup: 10,
            learning_rate: 1.0,
            final_share: 0.1,
            batch_size: 1,
            sequence_length: 2,
            weight_decay: 0.0,
            clip: 1.0,
            dropout: 0.0,
            every_expert: false,
            balance: 0.0,
            seed: 0,
        };
        assert_eq!(recipe.rate(0), 0.1);
        assert_eq!(recipe.rate(10), 1.0);
        assert!((recipe.rate(60) - 0.55).abs() < 1e-12);
        assert!((recipe.rate(110) - 0.1).abs() < 1e-12);
    }
}
