//! Packing rows of floats and unpacking them, on one core: `cargo bench -p llama4 --bench quant`.

#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use llama4::quant::{Packing, pack, unpack};

/// A row of Scout's widest matrix.
const COLUMNS: usize = 16_384;

fn quant(c: &mut Criterion) {
    let values: Vec<f32> = (0..COLUMNS).map(|at| (at as f32 * 0.7).sin() * 0.02).collect();
    for (what, packs) in [("pack", true), ("unpack", false)] {
        let mut group = c.benchmark_group(what);
        group.throughput(Throughput::Bytes(4 * COLUMNS as u64));
        for &packing in Packing::ALL {
            let mut words = vec![0; packing.words(COLUMNS)];
            let mut scales = vec![0; packing.scales(COLUMNS)];
            pack(packing, &values, &mut words, &mut scales).expect("values within range");
            let mut unpacked = vec![0.0; COLUMNS];
            group.bench_function(packing.as_str(), |bencher| match packs {
                true => {
                    bencher.iter(|| pack(packing, black_box(&values), black_box(&mut words), black_box(&mut scales)))
                }
                false => {
                    bencher.iter(|| unpack(packing, black_box(&words), black_box(&scales), black_box(&mut unpacked)))
                }
            });
        }
        group.finish();
    }
}

criterion_group!(benches, quant);
criterion_main!(benches);
