//! Text to ids and back with the demo model's tokenizer: `cargo bench -p llama4 --bench tokenizer`.

#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use llama4::text::Tokenizer;

const TEXT: &str = "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of \
                    a wife. \u{201c}Na\u{ef}ve caf\u{e9}s\u{201d} \u{2014} 1813. ";

fn tokenizer(c: &mut Criterion) {
    let tokenizer = Tokenizer::from_dir("../fixtures/demo").expect("the demo model's tokenizer");
    let text = TEXT.repeat(50);
    let ids = tokenizer.encode(&text, true).expect("ids");
    let mut group = c.benchmark_group("tokenizer");
    group.throughput(Throughput::Elements(ids.len() as u64));
    group.bench_function("encode", |bencher| bencher.iter(|| tokenizer.encode(black_box(&text), true)));
    group.bench_function("decode", |bencher| bencher.iter(|| tokenizer.decode(black_box(&ids), true)));
    group.bench_function("stream", |bencher| {
        bencher.iter(|| {
            let mut stream = tokenizer.stream(true);
            for &id in &ids {
                black_box(stream.push(id).expect("text"));
            }
            stream.finish()
        });
    });
    group.finish();
}

criterion_group!(benches, tokenizer);
criterion_main!(benches);
