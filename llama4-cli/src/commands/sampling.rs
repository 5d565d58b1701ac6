//! What the commands that generate have in common.

use std::hash::{BuildHasher, Hasher, RandomState};

use llama4::generate::{SamplingParams, Timings};

/// Settings with a seed, so that what was drawn can be drawn again. Of 32 bits: every JSON reader and every human can copy it.
pub(super) fn with_seed(params: SamplingParams, logprobs: Option<usize>) -> SamplingParams {
    // The hasher's keys come from the operating system.
    let random = || u64::from(RandomState::new().build_hasher().finish() as u32);
    SamplingParams { seed: Some(params.seed.unwrap_or_else(random)), logprobs, ..params }
}

/// Tokens and times of one request, for people.
pub(super) fn statistics(timings: &Timings) -> String {
    let rate = |rate: Option<f64>| rate.map(|rate| format!(" ({rate:.1}/s)")).unwrap_or_default();
    let cached = match timings.cached_tokens {
        0 => String::new(),
        cached => format!(" and {cached} cached"),
    };
    format!(
        "prompt: {} tokens{cached} in {:.2} s{}; decode: {} tokens in {:.2} s{}",
        timings.prefill_tokens,
        timings.prefill.as_secs_f64(),
        rate(timings.prefill_rate()),
        timings.decode_tokens,
        timings.decode.as_secs_f64(),
        rate(timings.decode_rate()),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_seed_given_stays() {
        let params = SamplingParams { seed: Some(7), ..SamplingParams::default() };
        assert_eq!(with_seed(params, None).seed, Some(7));
        assert!(with_seed(SamplingParams::default(), None).seed.is_some());
    }

    #[test]
    fn statistics_keep_the_phases_apart() {
        let timings = Timings {
            prefill_tokens: 10,
            cached_tokens: 4,
            prefill: Duration::from_secs(2),
            decode_tokens: 0,
            decode: Duration::ZERO,
        };
        let text = statistics(&timings);
        assert_eq!(text, "prompt: 10 tokens and 4 cached in 2.00 s (5.0/s); decode: 0 tokens in 0.00 s");
    }
}
