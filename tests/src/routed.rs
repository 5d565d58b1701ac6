//! Experts that tokens are sent to without a word of the host.

use std::ops::Range;

use burn::module::Param;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use llama4::ops::{self, RoutedExperts};
use llama4::quant::{Packing, Weight};
use proptest::prelude::*;

use crate::across::{Reference, packed_pair, put, types, values, within};
use crate::properties::check;

/// Experts in one tensor and in several, against tokens one by one. Widths are such that every device has a kernel for them.
pub fn routed_experts_agree<B: Backend>() {
    // Score, scaled input, weights of gate and up, gate, up and their product; weight of down, down, sum.
    const ROUNDINGS: f64 = 9.0;
    for (dtype, rounding) in types::<B>("routed_experts_agree") {
        let packings = prop::sample::select(vec![None, Some(Packing::Q8), Some(Packing::Q4)]);
        let inputs = (2..70_usize, 1..6_usize, 1..6_usize, [1..3_usize, 1..3_usize], any::<u64>(), packings);
        check(10, inputs, |(tokens, count, per_group, [hidden, intermediate], seed, packing)| {
            let [hidden, intermediate] = [128 * hidden, 128 * intermediate];
            let x = values([tokens, hidden], dtype, seed);
            let shared = values([tokens, hidden], dtype, seed ^ 1);
            let logits = values([tokens, count], DType::F32, seed ^ 2);
            let held: Vec<(Range<usize>, [WeightPair<B>; 2])> = (0..count)
                .step_by(per_group)
                .map(|first| {
                    let (experts, seed) = (first..count.min(first + per_group), seed ^ (first as u64 + 3));
                    let pair =
                        |rows, columns, seed| WeightPair::draw([experts.len(), rows, columns], packing, dtype, seed);
                    let pairs = [pair(2 * intermediate, hidden, seed), pair(hidden, intermediate, seed ^ 100)];
                    (experts, pairs)
                })
                .collect();

            let groups = held.iter().map(|(experts, [gate_up, down])| RoutedExperts {
                experts: experts.clone(),
                gate_up: &gate_up.on_backend,
                down: &down.on_backend,
            });
            let groups: Vec<_> = groups.collect();
            let [x_found, shared_found] = [&x, &shared].map(|data| put::<B, 2>(data, dtype));
            let found = ops::routed_experts(&x_found, &put(&logits, DType::F32), &groups, &shared_found);
            let Some(found) = found else {
                prop_assert!(!ops::queues::<B>(), "{dtype:?}, {packing:?}: a kernel for such widths");
                return Ok(());
            };

            let logits: Vec<f32> = logits.iter().collect();
            let rows = logits.chunks(count).enumerate().map(|(token, logits)| {
                let best = (0..count).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("an expert");
                let (experts, [gate_up, down]) =
                    held.iter().find(|(experts, _)| experts.contains(&best)).expect("all experts are held");
                let x = put::<Reference, 2>(&x, DType::F32).narrow(0, token, 1) / (1.0 + (-logits[best]).exp());
                let gate_up = gate_up.of_expert(best - experts.start);
                down.of_expert(best - experts.start)(ops::swiglu_halves(gate_up(x)))
            });
            let expected = put::<Reference, 2>(&shared, DType::F32) + Tensor::cat(rows.collect(), 0);
            within(&found, &expected, ROUNDINGS * rounding)
        });
    }
}

/// Weights of experts on the reference, in floats, and on a backend.
struct WeightPair<B: Backend> {
    on_reference: Tensor<Reference, 3>,
    on_backend: Weight<B, 3>,
}

impl<B: Backend> WeightPair<B> {
    fn draw([experts, rows, columns]: [usize; 3], packing: Option<Packing>, dtype: DType, seed: u64) -> Self {
        match packing {
            None => {
                let data = values([experts, rows, columns], dtype, seed);
                let on_backend = Weight::Float(Param::from_tensor(put::<B, 3>(&data, dtype)));
                Self { on_reference: put(&data, DType::F32), on_backend }
            }
            Some(packing) => {
                let (on_reference, on_backend) = packed_pair::<B>(packing, [experts * rows, columns], seed);
                let on_reference = ops::unpack_rows(&on_reference, 0..experts * rows, DType::F32.into());
                let on_reference = on_reference.reshape([experts, rows, columns]);
                Self { on_reference, on_backend: Weight::Packed(on_backend) }
            }
        }
    }

    /// The product with the weight of an expert.
    fn of_expert(&self, expert: usize) -> impl Fn(Tensor<Reference, 2>) -> Tensor<Reference, 2> {
        let [_, rows, columns] = self.on_reference.dims();
        let weight = self.on_reference.clone().narrow(0, expert, 1).reshape([rows, columns]);
        move |x| ops::linear(x, weight.clone())
    }
}
