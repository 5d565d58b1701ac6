//! Invariants of layers and model on any backend.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Distribution, Int, Tensor, TensorData};
use llama4::cache::{Pieces, Span};
use llama4::config::{ReturnHiddenStates, ReturnLogits};
use llama4::error::CacheError;
use llama4::nn::moe::{Experts, ExpertsConfig, RouterConfig};
use llama4::nn::{ForwardOptions, RmsNormConfig, RotaryTable, TokenBatch, inverse_frequencies, rotate};
use llama4::{Llama4ForCausalLM, ops};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::models::{prompt, tiny, tiny_config};

/// Largest difference, relative to the largest value, that another order of summation may make in `f32`.
const TOLERANCE: f32 = 1e-4;

/// Run a property on random inputs; the failure names the smallest input found.
pub(crate) fn check<S: Strategy>(cases: u32, inputs: S, property: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    if let Err(failure) = runner.run(&inputs, property) {
        panic!("{failure}");
    }
}

pub(crate) fn host<B: Backend, const D: usize>(tensor: &Tensor<B, D>) -> Vec<f32> {
    tensor.to_data().iter::<f32>().collect()
}

pub(crate) fn close(found: &[f32], expected: &[f32]) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1.0_f32, |most, value| most.max(value.abs()));
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (found - expected).abs() / scale;
        prop_assert!(off <= TOLERANCE, "{found} instead of {expected} at {at}, off by {off:.1e}");
    }
    Ok(())
}

pub(crate) fn random<B: Backend, const D: usize>(shape: [usize; D], seed: u64) -> Tensor<B, D> {
    let device = B::Device::default();
    B::seed(&device, seed);
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device)
}

/// Logits of all `tokens` in one pass.
fn logits_of<B: Backend>(model: &Llama4ForCausalLM<B>, tokens: &[u32]) -> Vec<f32> {
    logits_in_pieces(model, tokens, &[tokens.len()])
}

/// Logits of all `tokens`, in passes of the given lengths.
fn logits_in_pieces<B: Backend>(model: &Llama4ForCausalLM<B>, tokens: &[u32], lengths: &[usize]) -> Vec<f32> {
    let mut cache = model.new_cache(1, tokens.len());
    let (mut logits, mut start) = (Vec::new(), 0);
    for length in lengths {
        let batch = TokenBatch::single(&tokens[start..start + length], &model.device());
        let output = model.forward(&batch, &mut cache, &ForwardOptions::all_logits()).expect("room");
        logits.extend(host(&output.logits.expect("all logits")));
        start += length;
    }
    logits
}

/// prefill(n) = prefill(k), then single steps: at every k, across chunk borders.
pub fn prefill_equals_prefix_and_steps<B: Backend>() {
    let model = tiny::<B>(&tiny_config(), 1);
    check(8, prompt(1..20), |tokens| {
        let expected = logits_of(&model, &tokens);
        for k in 0..tokens.len() {
            let mut lengths = vec![1; tokens.len() - k];
            if k > 0 {
                lengths.insert(0, k);
            }
            close(&logits_in_pieces(&model, &tokens, &lengths), &expected)?;
        }
        Ok(())
    });
}

/// Sequences in one batch, whatever their lengths and places, give what each gives alone; also from a middle of the sequence on.
pub fn rows_of_a_batch_do_not_meet<B: Backend>() {
    let model = tiny::<B>(&tiny_config(), 2);
    let prompts = proptest::collection::vec(prompt(2..14), 1..4);
    check(16, (prompts, any::<prop::sample::Index>()), |(prompts, cut)| {
        let mut cache = model.new_cache(prompts.len(), 14);
        let mut found = vec![Vec::new(); prompts.len()];
        let cuts: Vec<usize> = prompts.iter().map(|tokens| 1 + cut.index(tokens.len() - 1)).collect();
        for first in [true, false] {
            // The rows of the second pass stand in another order than in the first.
            let mut rows: Vec<usize> = (0..prompts.len()).collect();
            if !first {
                rows.reverse();
            }
            let parts: Vec<(usize, &[u32])> = rows
                .iter()
                .map(|&row| (row, if first { &prompts[row][..cuts[row]] } else { &prompts[row][cuts[row]..] }))
                .collect();
            let batch = TokenBatch::new(&parts, &model.device());
            let output = model.forward(&batch, &mut cache, &ForwardOptions::all_logits()).expect("room");
            let (logits, offsets) = (output.logits.expect("all logits"), output.offsets.expect("offsets"));
            for (place, &row) in rows.iter().enumerate() {
                let length = offsets[place + 1] - offsets[place];
                found[row].extend(host(&logits.clone().narrow(0, offsets[place], length)));
            }
        }
        for (tokens, found) in prompts.iter().zip(&found) {
            close(found, &logits_of(&model, tokens))?;
        }
        Ok(())
    });
}

/// Rows padded on either side give what they give without padding.
pub fn padding_changes_nothing<B: Backend>() {
    let model = tiny::<B>(&tiny_config(), 3);
    check(16, (prompt(1..10), 0..6_usize, 0..6_usize), |(tokens, left, right)| {
        let padded: Vec<u32> = [vec![0; left], tokens.clone(), vec![0; right]].concat();
        let mask: Vec<bool> = [vec![false; left], vec![true; tokens.len()], vec![false; right]].concat();
        let batch = TokenBatch::from_padded(&[&padded], &[&mask], &model.device());
        let mut cache = model.new_cache(1, padded.len());
        let output = model.forward(&batch, &mut cache, &ForwardOptions::all_logits()).expect("room");
        close(&host(&output.logits.expect("all logits")), &logits_of(&model, &tokens))
    });
}

/// Rearranges the first axis of every parameter of a module.
struct Permute(Vec<i32>);

impl<B: Backend> ModuleMapper<B> for Permute {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        param.map(|tensor| {
            let order = TensorData::new(self.0.clone(), [self.0.len()]);
            let order = Tensor::<B, 1, Int>::from_data(order, &tensor.device());
            tensor.select(0, order)
        })
    }
}

/// Permuting experts and router rows together changes nothing.
pub fn permuted_experts_change_nothing<B: Backend>() {
    let device = B::Device::default();
    let order = Just((0..5).collect::<Vec<i32>>()).prop_shuffle();
    check(16, (1..9_usize, 1..4_usize, any::<u64>(), order), |(tokens, top_k, seed, order)| {
        B::seed(&device, seed);
        let router = RouterConfig::new(16, 5, top_k).init::<B>(&device);
        let experts = ExpertsConfig::new(16, 8, 5).init::<B>(&device);
        let x = random::<B, 2>([tokens, 16], seed ^ 1) * 10.0;
        let expected = experts.forward(x.clone(), &router.forward(x.clone()));
        let router = Module::map(router, &mut Permute(order.clone()));
        let experts = Module::map(experts, &mut Permute(order));
        let found = experts.forward(x.clone(), &router.forward(x));
        close(&host(&found), &host(&expected))
    });
}

/// Collects the parameters of a module in order.
struct Values(Vec<Vec<f32>>);

impl<B: Backend> burn::module::ModuleVisitor<B> for Values {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        self.0.push(host(&param.val()));
    }
}

/// Fills parameters, in order, with the rows of joined tensors.
struct Refill {
    gate_up: Vec<f32>,
    down: Vec<f32>,
    is_down: bool,
}

impl<B: Backend> ModuleMapper<B> for Refill {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let source = if self.is_down { &mut self.down } else { &mut self.gate_up };
        self.is_down = !self.is_down;
        param.map(|tensor| {
            let shape = tensor.shape();
            let values: Vec<f32> = source.drain(..shape.num_elements()).collect();
            Tensor::from_data(TensorData::new(values, shape), &tensor.device())
        })
    }
}

/// Experts held in several tensors give what they give in one.
pub fn experts_in_groups_change_nothing<B: Backend>() {
    let device = B::Device::default();
    check(12, (1..9_usize, 1..4_usize, 1..5_usize, any::<u64>()), |(tokens, top_k, per_group, seed)| {
        B::seed(&device, seed);
        let router = RouterConfig::new(16, 5, top_k).init::<B>(&device);
        let together: Experts<B> = ExpertsConfig::new(16, 8, 5).init(&device);
        let config = ExpertsConfig::new(16, 8, 5).with_elements_per_tensor(per_group * 2 * 8 * 16);
        let mut values = Values(Vec::new());
        Module::<B>::visit(&together, &mut values);
        let mut refill = Refill { gate_up: values.0[0].clone(), down: values.0[1].clone(), is_down: false };
        let apart = Module::map(config.init::<B>(&device), &mut refill);
        prop_assert_eq!(config.group_sizes().len(), 5_usize.div_ceil(per_group));
        let x = random::<B, 2>([tokens, 16], seed ^ 1) * 10.0;
        let routing = router.forward(x.clone());
        close(&host(&apart.forward(x.clone(), &routing)), &host(&together.forward(x, &routing)))
    });
}

/// Running every expert on all tokens, with a zero input where it was not chosen, gives what running the chosen ones gives.
pub fn every_expert_on_all_tokens_changes_nothing<B: Backend>() {
    let device = B::Device::default();
    check(12, (1..9_usize, 1..4_usize, 1..6_usize, any::<u64>()), |(tokens, top_k, per_group, seed)| {
        B::seed(&device, seed);
        let router = RouterConfig::new(16, 5, top_k).init::<B>(&device);
        let config = ExpertsConfig::new(16, 8, 5).with_elements_per_tensor(per_group * 2 * 8 * 16);
        let experts: Experts<B> = config.init(&device);
        let x = random::<B, 2>([tokens, 16], seed ^ 1) * 10.0;
        let routing = router.forward(x.clone());
        close(&host(&experts.forward_all(x.clone(), &routing)), &host(&experts.forward(x, &routing)))
    });
}

fn table<B: Backend>(positions: &[usize]) -> RotaryTable<B> {
    RotaryTable::new(&inverse_frequencies(&tiny_config()), positions, &B::Device::default())
}

/// A rotation keeps the length of every head, at any position.
pub fn rope_keeps_norms<B: Backend>() {
    let width = tiny_config().head_dim;
    check(16, (0..10_000_000_usize, any::<u64>()), |(position, seed)| {
        let x = random::<B, 3>([1, 3, width], seed);
        let norms = |x: &Tensor<B, 3>| host(&x.clone().square().sum_dim(2).sqrt());
        close(&norms(&rotate(x.clone(), &table(&[position]))), &norms(&x))
    });
}

/// The product of a rotated query and key depends on how far apart they are, not on where.
pub fn rope_depends_on_position_differences<B: Backend>() {
    let width = tiny_config().head_dim;
    check(16, (0..5000_usize, 0..5000_usize, 0..5000_usize, any::<u64>()), |(q_at, k_at, shift, seed)| {
        let (q, k) = (random::<B, 3>([1, 1, width], seed), random::<B, 3>([1, 1, width], seed ^ 1));
        let score = |shift: usize| {
            let q = rotate(q.clone(), &table(&[q_at + shift]));
            let k = rotate(k.clone(), &table(&[k_at + shift]));
            host(&(q * k).sum_dim(2))[0]
        };
        let (here, there) = (score(0), score(shift));
        prop_assert!((here - there).abs() < 1e-4 * width as f32, "{here} at 0, {there} at {shift}");
        Ok(())
    });
}

/// Scaling the input of an RMS norm changes nothing, as long as epsilon does not matter.
pub fn rms_norm_is_scale_invariant<B: Backend>() {
    let norm = RmsNormConfig::new(32).with_epsilon(0.0).init::<B>(&B::Device::default());
    check(16, (0.01..100.0_f32, any::<u64>()), |(scale, seed)| {
        let x = random::<B, 2>([3, 32], seed);
        close(&host(&norm.forward(x.clone() * scale)), &host(&norm.forward(x)))
    });
}

/// The keys that a query sees, listed: those of its chunk up to itself, and nothing else, in whatever pieces the sequence came.
pub fn chunked_layers_see_their_chunk<B: Backend>() {
    check(64, (1..9_usize, 1..40_usize, 0..40_usize), |(chunk, length, past)| {
        let span = Span { row: 0, past, offset: 0, len: length };
        let mut position = past;
        for piece in Pieces::cut(&[span], Some(chunk)).iter() {
            for index in 0..piece.len {
                // Slot s holds the key of the position in this chunk that is congruent to s.
                let chunk_begin = position - position % chunk;
                let seen: Vec<usize> = piece.visible(index).map(|slot| chunk_begin + slot).collect();
                let expected: Vec<usize> = (0..=position).filter(|key| key / chunk == position / chunk).collect();
                prop_assert_eq!(seen, expected, "at position {}", position);
                position += 1;
            }
        }
        prop_assert_eq!(position, past + length);
        Ok(())
    });
}

/// The row product, at any shape, is the product it stands for.
pub fn linear_equals_its_definition<B: Backend>() {
    check(32, (1..12_usize, 1..70_usize, 1..70_usize, any::<u64>()), |(rows, input, output, seed)| {
        let x = random::<B, 2>([rows, input], seed);
        let weight = random::<B, 2>([output, input], seed ^ 1);
        close(&host(&ops::linear(x.clone(), weight.clone())), &host(&ops::linear_plain(x, weight)))
    });
}

/// The grouped row product, with any number of rows a group, empty groups too.
pub fn grouped_linear_equals_its_definition<B: Backend>() {
    let counts = proptest::collection::vec(0..11_usize, 1..5);
    check(32, (counts, 1..50_usize, 1..50_usize, any::<u64>()), |(counts, input, output, seed)| {
        let rows: usize = counts.iter().sum();
        prop_assume!(rows > 0);
        let x = random::<B, 2>([rows, input], seed);
        let weights = random::<B, 3>([counts.len(), output, input], seed ^ 1);
        let found = ops::grouped_linear(x.clone(), weights.clone(), &counts);
        close(&host(&found), &host(&ops::grouped_linear_plain(x, weights, &counts)))
    });
}

/// Cutting a cache and going on gives what a new cache gives, and where a chunk is gone the error says how far back it works.
pub fn truncated_cache_goes_on_as_if_new<B: Backend>() {
    let model = tiny::<B>(&tiny_config(), 4);
    let chunk = tiny_config().attention_chunk_size.expect("a chunked model");
    let cut = any::<prop::sample::Index>;
    check(24, (prompt(2..14), prompt(1..8), [cut(), cut()]), |(first, second, cuts)| {
        let mut cache = model.new_cache(1, 32);
        let run = |cache: &mut _, tokens: &[u32]| {
            let batch = TokenBatch::single(tokens, &model.device());
            let output = model.forward(&batch, cache, &ForwardOptions::default()).expect("room");
            host(&output.last_logits)
        };
        run(&mut cache, &first);
        // Cut twice: what the first cut took away has still been written.
        let last = (first.len() - 1) / chunk * chunk;
        let mut kept = first.len();
        for cut in cuts {
            let keep = cut.index(kept + 1);
            let begin = keep - keep % chunk;
            kept = match cache.truncate(0, keep) {
                Ok(()) => {
                    prop_assert!(keep == begin || begin == last, "{keep} of {} is gone", first.len());
                    keep
                }
                Err(CacheError::Evicted { resume_at, .. }) => {
                    prop_assert_eq!(resume_at, begin);
                    prop_assert!(begin != last);
                    cache.truncate(0, resume_at).expect("a chunk border");
                    resume_at
                }
                Err(other) => panic!("{other}"),
            };
        }
        let whole = [&first[..kept], &second[..]].concat();
        let found = run(&mut cache, &second);
        close(&found, &run(&mut model.new_cache(1, 32), &whole))
    });
}

/// All, the last n, and the last logits are rows of the same thing; so are hidden states in their modes.
pub fn return_modes_agree<B: Backend>() {
    let model = tiny::<B>(&tiny_config(), 5);
    let rows = [(0, vec![1, 2, 3, 4, 5, 6]), (1, vec![7, 8])];
    let batch = TokenBatch::new(&rows, &model.device());
    let run = |logits, hidden_states| {
        let options = ForwardOptions { logits, hidden_states, trace: false };
        model.forward(&batch, &mut model.new_cache(2, 8), &options).expect("room")
    };
    let last = tiny_config().num_hidden_layers - 1;
    let all = run(ReturnLogits::All, ReturnHiddenStates::SelectedLayers(vec![0, last]));
    let some = run(ReturnLogits::Variable(3), ReturnHiddenStates::All);
    let one = run(ReturnLogits::LastToken, ReturnHiddenStates::Last);
    let (logits, hidden) = (all.logits.expect("all"), &some.hidden_states[0]);
    assert_eq!(all.offsets, Some(vec![0, 6, 8]));
    assert_eq!(some.offsets, Some(vec![0, 3, 5]));
    assert!(one.logits.is_none() && one.offsets.is_none());
    let rows = |tensor: &Tensor<B, 2>, indices: &[i32]| {
        let indices =
            Tensor::<B, 1, Int>::from_data(TensorData::new(indices.to_vec(), [indices.len()]), &tensor.device());
        host(&tensor.clone().select(0, indices))
    };
    let same = |found: Vec<f32>, expected: Vec<f32>| close(&found, &expected).expect("the same rows");
    same(host(&some.logits.expect("some")), rows(&logits, &[3, 4, 5, 6, 7]));
    for output in [&all.last_logits, &some.last_logits, &one.last_logits] {
        same(host(output), rows(&logits, &[5, 7]));
    }
    same(host(&one.hidden_states[0]), rows(hidden, &[5, 7]));
    same(host(&all.hidden_states[1]), host(hidden));
    assert_eq!(all.hidden_states.len(), 2);
    assert_eq!(logits.dtype(), DType::F32);
}
