//! How long choosing a token takes, over a vocabulary as large as Llama 4's: `cargo bench -p llama4 --bench sampler`.

#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use llama4::generate::{History, Sampler, SamplingParams};

const VOCAB: usize = 202_048;

/// Logits of a model that is fairly sure: normal, with a few that stand out.
fn logits() -> Vec<f32> {
    let mut state = 1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut logits: Vec<f32> = (0..VOCAB).map(|_| (0..4).map(|_| uniform()).sum::<f32>() * 2.0 - 4.0).collect();
    logits.iter_mut().step_by(20_011).enumerate().for_each(|(rank, logit)| *logit = 12.0 - rank as f32);
    logits
}

fn sample(c: &mut Criterion) {
    let history: Vec<u32> = (0..2048).map(|at| at * 97 % VOCAB as u32).collect();
    let drawn = SamplingParams { temperature: 0.8, seed: Some(0), ..SamplingParams::default() };
    let cases = [
        ("greedy", SamplingParams::default()),
        ("temperature", drawn.clone()),
        ("top_k 40", SamplingParams { top_k: 40, ..drawn.clone() }),
        ("top_p 0.9", SamplingParams { top_p: 0.9, ..drawn.clone() }),
        ("top_k 40, top_p 0.9, min_p 0.05", SamplingParams { top_k: 40, top_p: 0.9, min_p: 0.05, ..drawn.clone() }),
        ("penalties over 2048 tokens", SamplingParams { repetition_penalty: 1.1, ..drawn.clone() }),
        ("greedy with 5 logprobs", SamplingParams { logprobs: Some(5), ..SamplingParams::default() }),
    ];
    let mut group = c.benchmark_group("sample of 202048");
    for (name, params) in cases {
        let mut sampler = Sampler::new(params).expect("valid parameters");
        let mut logits = logits();
        group.bench_function(name, |bencher| {
            bencher.iter(|| sampler.sample(black_box(&mut logits), History::new(&history, 1024)));
        });
    }
    group.finish();
}

criterion_group!(benches, sample);
criterion_main!(benches);
