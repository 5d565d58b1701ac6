//! What holds for any logits and any settings: properties of the sampler, through its public interface.

use std::collections::HashSet;

use llama4::generate::{History, Sampler, SamplingParams};
use proptest::prelude::*;
use proptest::sample::Index;

const NONE: History<'static> = History { prompt: &[], generated: &[] };

/// Logits of vocabularies longer and shorter than the blocks they are worked on in; many equal, some banned, never all.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    let logit = prop_oneof![
        8 => -20.0_f32..20.0,
        4 => (-6_i8..6).prop_map(f32::from),
        1 => Just(f32::NEG_INFINITY),
    ];
    let len = prop_oneof![1_usize..20, 1_usize..2500];
    (len, -20.0_f32..20.0, any::<Index>())
        .prop_flat_map(move |(len, possible, at)| (prop::collection::vec(logit.clone(), len), Just(possible), Just(at)))
        .prop_map(|(mut logits, possible, at)| {
            let at = at.index(logits.len());
            logits[at] = possible;
            logits
        })
}

fn params() -> impl Strategy<Value = SamplingParams> {
    let top_k = prop_oneof![Just(0), 1_usize..100, 100_usize..3000];
    let top_p = prop_oneof![Just(1.0_f32), 0.0_f32..1.0];
    let min_p = prop_oneof![Just(0.0_f32), 0.0_f32..1.0, 0.0_f32..0.01];
    (0.1_f32..5.0, top_k, top_p, min_p, any::<u64>()).prop_map(|(temperature, top_k, top_p, min_p, seed)| {
        SamplingParams { temperature, top_k, top_p, min_p, seed: Some(seed), ..Default::default() }
    })
}

fn distribution(params: &SamplingParams, logits: &[f32]) -> Vec<(u32, f64)> {
    let mut scratch = logits.to_vec();
    let mut sampler = Sampler::new(params.clone()).unwrap();
    let distribution = sampler.distribution(&mut scratch, NONE).unwrap();
    assert_eq!(scratch, logits, "the logits were not put back");
    distribution
}

fn ids(distribution: &[(u32, f64)]) -> HashSet<u32> {
    distribution.iter().map(|token| token.0).collect()
}

/// All ids, best first, by a full sort.
fn sorted(logits: &[f32]) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let logit = |id: u32| logits[id as usize];
    ids.sort_by(|&a, &b| logit(b).partial_cmp(&logit(a)).unwrap().then(a.cmp(&b)));
    ids
}

proptest! {
    #[test]
    fn distributions_sum_to_one_over_possible_tokens_in_order(params in params(), logits in logits()) {
        let distribution = distribution(&params, &logits);
        let sum: f64 = distribution.iter().map(|token| token.1).sum();
        prop_assert!((sum - 1.0).abs() < 1e-9, "{}", sum);
        prop_assert!(distribution.iter().all(|token| token.1 > 0.0 && logits[token.0 as usize] > f32::NEG_INFINITY));
        prop_assert!(distribution.windows(2).all(|pair| pair[0].0 < pair[1].0));
        prop_assert!(ids(&distribution).contains(&sorted(&logits)[0]));
    }

    #[test]
    fn without_limits_it_is_the_softmax(logits in logits(), temperature in 0.1_f32..5.0) {
        let params = SamplingParams { temperature, ..Default::default() };
        let mut found = vec![0.0; logits.len()];
        for (id, p) in distribution(&params, &logits) {
            found[id as usize] = p;
        }
        let peak = f64::from(logits[sorted(&logits)[0] as usize]);
        let weight = |x: f32| ((f64::from(x) - peak) / f64::from(temperature)).exp();
        let total: f64 = logits.iter().map(|&x| weight(x)).sum();
        for (&found, &x) in found.iter().zip(&logits) {
            let exact = weight(x) / total;
            // The exponent is a quotient in single precision; below e^-87 there is nothing.
            prop_assert!((found - exact).abs() <= 1e-4 * exact + 2e-38, "{} for {}", found, exact);
        }
    }

    #[test]
    fn top_k_keeps_the_k_best(logits in logits(), temperature in 0.5_f32..5.0, top_k in 2_usize..3000) {
        let params = SamplingParams { temperature, top_k, ..Default::default() };
        let kept = distribution(&params, &logits);
        prop_assert!(kept.len() <= top_k);
        let mut best = sorted(&logits);
        best.truncate(top_k);
        best.retain(|&id| logits[id as usize] > f32::NEG_INFINITY);
        best.sort_unstable();
        prop_assert_eq!(kept.iter().map(|token| token.0).collect::<Vec<_>>(), best);
    }

    #[test]
    fn top_p_keeps_the_smallest_set_that_reaches_p(
        logits in logits(),
        temperature in 0.1_f32..5.0,
        top_p in 0.0_f32..1.0,
    ) {
        let open = SamplingParams { temperature, ..Default::default() };
        let all = distribution(&open, &logits);
        let kept = ids(&distribution(&SamplingParams { top_p, ..open }, &logits));
        let (inside, outside): (Vec<_>, Vec<_>) = all.iter().copied().partition(|token| kept.contains(&token.0));
        let worst = inside.iter().map(|token| token.1).fold(f64::INFINITY, f64::min);
        let best_outside = outside.iter().map(|token| token.1).fold(0.0, f64::max);
        prop_assert!(best_outside <= worst);
        let reached: f64 = inside.iter().map(|token| token.1).sum();
        prop_assert!(reached >= f64::from(top_p) - 1e-12, "{} does not reach {}", reached, top_p);
        if inside.len() > 1 {
            prop_assert!(reached - worst < f64::from(top_p) + 1e-12, "{} would do", reached - worst);
        }
        // Of tokens as likely as the last one, those with the lowest ids are in.
        let last_in = inside.iter().filter(|token| token.1 == worst).map(|token| token.0).max();
        let first_out = outside.iter().filter(|token| token.1 == worst).map(|token| token.0).min();
        prop_assert!(first_out.is_none() || last_in < first_out);
    }

    #[test]
    fn min_p_keeps_what_is_likely_enough(params in params(), logits in logits(), min_p in 0.001_f32..1.0) {
        let without = distribution(&SamplingParams { min_p: 0.0, ..params.clone() }, &logits);
        let kept = distribution(&SamplingParams { min_p, ..params }, &logits);
        let most = |of: &[(u32, f64)]| of.iter().map(|token| token.1).fold(0.0, f64::max);
        let floor = f64::from(min_p) * (1.0 - 1e-12);
        prop_assert!(kept.iter().all(|token| token.1 >= floor * most(&kept)));
        let ceiling = f64::from(min_p) * (1.0 + 1e-12);
        let kept = ids(&kept);
        prop_assert!(without.iter().all(|token| kept.contains(&token.0) || token.1 < ceiling * most(&without)));
    }

    #[test]
    fn what_is_drawn_is_in_the_distribution(params in params(), logits in logits()) {
        let possible = ids(&distribution(&params, &logits));
        let mut sampler = Sampler::new(params).unwrap();
        let mut scratch = logits.clone();
        for _ in 0..10 {
            prop_assert!(possible.contains(&sampler.sample(&mut scratch, NONE).unwrap().id));
        }
        prop_assert_eq!(scratch, logits);
    }

    #[test]
    fn greedy_is_the_argmax(params in params(), logits in logits()) {
        let cold = SamplingParams { temperature: 0.0, ..params.clone() };
        for greedy in [cold, SamplingParams { top_k: 1, ..params }] {
            let mut sampler = Sampler::new(greedy).unwrap();
            prop_assert!(!sampler.needs_logits());
            prop_assert_eq!(sampler.sample(&mut logits.clone(), NONE).unwrap().id, sorted(&logits)[0]);
        }
    }

    #[test]
    fn a_seed_repeats_itself(params in params(), logits in logits(), index in 0_usize..5) {
        let run = || -> Vec<u32> {
            let mut sampler = Sampler::for_sequence(params.clone(), index).unwrap();
            (0..8).map(|_| sampler.sample(&mut logits.clone(), NONE).unwrap().id).collect()
        };
        prop_assert_eq!(run(), run());
    }

    #[test]
    fn logprobs_are_those_of_the_untouched_logits(
        params in params(),
        logits in logits(),
        history in prop::collection::vec(any::<Index>(), 0..20),
        top in 0_usize..30,
    ) {
        let history: Vec<u32> = history.iter().map(|at| at.index(logits.len()) as u32).collect();
        let params = SamplingParams { logprobs: Some(top), repetition_penalty: 1.5, presence_penalty: 0.5, ..params };
        let sampled = Sampler::new(params).unwrap().sample(&mut logits.clone(), History::new(&history, 5)).unwrap();
        let peak = f64::from(logits[sorted(&logits)[0] as usize]);
        let total = logits.iter().map(|&x| (f64::from(x) - peak).exp()).sum::<f64>().ln() + peak;
        let logprob = |id: u32| f64::from(logits[id as usize]) - total;
        prop_assert!((f64::from(sampled.logprob.unwrap()) - logprob(sampled.id)).abs() < 1e-5);
        let mut best = sorted(&logits);
        best.truncate(top);
        best.retain(|&id| logits[id as usize] > f32::NEG_INFINITY);
        prop_assert_eq!(sampled.top.iter().map(|token| token.id).collect::<Vec<_>>(), best);
        prop_assert!(sampled.top.iter().all(|token| (f64::from(token.logprob) - logprob(token.id)).abs() < 1e-5));
    }

    #[test]
    fn a_penalty_moves_the_log_odds_of_seen_tokens_by_its_rule(
        logits in prop::collection::vec(-5.0_f32..5.0, 21..60),
        history in prop::collection::vec(0_u32..20, 1..30),
        prompt_len in 0_usize..30,
        which in 0..3,
        strength in 0.1_f32..2.0,
    ) {
        let open = SamplingParams { temperature: 1.0, ..Default::default() };
        let mut penalized = open.clone();
        match which {
            0 => penalized.repetition_penalty = 1.0 + strength,
            1 => penalized.frequency_penalty = strength,
            _ => penalized.presence_penalty = strength,
        }
        let history = History::new(&history, prompt_len);
        // Against token 20, which is never in the history: the common denominator falls out.
        let log_odds = |params: SamplingParams| -> Vec<f64> {
            let distribution = Sampler::new(params).unwrap().distribution(&mut logits.clone(), history).unwrap();
            distribution.iter().map(|token| (token.1 / distribution[20].1).ln()).collect()
        };
        for (id, (before, after)) in log_odds(open).iter().zip(log_odds(penalized)).enumerate() {
            let times = history.generated.iter().filter(|&&seen| seen as usize == id).count() as f64;
            let seen = times > 0.0 || history.prompt.contains(&(id as u32));
            let (logit, strength) = (f64::from(logits[id]), f64::from(strength));
            let expected = match which {
                0 if seen && logit > 0.0 => logit / (1.0 + strength) - logit,
                0 if seen => logit * strength,
                1 => -times * strength,
                2 if times > 0.0 => -strength,
                _ => 0.0,
            };
            prop_assert!((after - before - expected).abs() < 1e-4, "token {}: {} for {}", id, after - before, expected);
        }
    }
}

/// Pearson's χ² of 200,000 draws against the probabilities that the settings should give, computed by hand.
#[test]
fn draws_follow_the_distribution() {
    let probabilities = [0.4, 0.2, 0.15, 0.1, 0.08, 0.04, 0.02, 0.01_f64];
    let best_three = [0.4 / 0.75, 0.2 / 0.75, 0.15 / 0.75];
    let cases: [(SamplingParams, &[f64]); 3] = [
        (SamplingParams::default(), &probabilities),
        (SamplingParams { top_k: 3, ..Default::default() }, &best_three),
        (
            // The set of 0.9 ends with the fifth, those under 0.12 fall to min-p.
            SamplingParams { top_p: 0.9, min_p: 0.3, ..Default::default() },
            &best_three,
        ),
    ];
    for (params, expected) in cases {
        let mut sampler = Sampler::new(SamplingParams { temperature: 1.0, seed: Some(20), ..params }).unwrap();
        let mut logits = probabilities.map(|p| p.ln() as f32);
        let draws = 200_000.0;
        let mut counts = [0.0_f64; 8];
        for _ in 0..draws as usize {
            counts[sampler.sample(&mut logits, NONE).unwrap().id as usize] += 1.0;
        }
        let impossible = &counts[expected.len()..];
        assert!(impossible.iter().all(|&count| count == 0.0), "{counts:?}");
        let terms = counts.iter().zip(expected).map(|(count, p)| (count - p * draws).powi(2) / (p * draws));
        let chi_squared: f64 = terms.sum();
        // Passed once in a thousand by chance: 24.3 with seven degrees of freedom, 13.8 with two.
        let limit = if expected.len() == 8 { 24.3 } else { 13.8 };
        assert!(chi_squared < limit, "{chi_squared} {counts:?}");
    }
}
