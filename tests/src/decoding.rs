//! Tokens one after the other: through operations that take several of a layer's steps, and with the next step queued before one is read.

use std::ops::ControlFlow;

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use llama4::cache::KvCache;
use llama4::generate::{Event, FinishReason, GreedySteps, Request, Session, StopConditions};
use llama4::import::SyntheticOptions;
use llama4::nn::{ForwardOptions, TokenBatch};
use llama4::ops;
use llama4::quant::Quantization;
use llama4::{Llama4Config, Llama4ForCausalLM};

use crate::across::{ROUNDINGS, Reference, types, within};

/// A small model whose decoded tokens go through operations that take several steps.
fn wide_model<B: Backend>(dtype: DType, quantization: Quantization) -> Llama4ForCausalLM<B> {
    let mut config = Llama4Config::tiny_chunked();
    (config.hidden_size, config.intermediate_size, config.intermediate_size_mlp) = (512, 256, 256);
    (config.head_dim, config.num_attention_heads, config.num_key_value_heads) = (128, 4, 2);
    config.moe_layers = (0..config.num_hidden_layers).filter(|layer| layer % 3 != 1).collect();
    let options =
        SyntheticOptions { dtype: Some(dtype), quantization: Some(quantization), ..SyntheticOptions::default() };
    config.synthetic(&options, &B::Device::default(), |_| ControlFlow::Continue(())).expect("a model")
}

/// Greedy tokens are those of single steps, wherever a sequence ends and goes on again, though on a device the next step is under way when a
/// token is read.
pub fn greedy_steps_go_ahead<B: Backend>() {
    let model = wide_model::<B>(DType::F32, Quantization::q4());
    let device = model.device();
    let ahead = model.model().queues_steps(1);
    assert_eq!(ahead, ops::queues::<B>(), "the steps of this model can be queued");

    let (prompt, count, room) = (vec![5_u32, 17, 3], 14, 16);
    let mut cache = model.new_cache(1, room);
    let mut expected = Vec::new();
    for at in 0..prompt.len() + count - 1 {
        let token = prompt.get(at).copied().unwrap_or_else(|| expected[at - prompt.len()]);
        let forward = model.forward(&TokenBatch::single(&[token], &device), &mut cache, &ForwardOptions::default());
        let next = forward.expect("room").last_logits.argmax(1).into_data().iter::<u32>().next().expect("one row");
        if at + 1 >= prompt.len() {
            expected.push(next);
        }
    }

    let mut cache = model.new_cache(1, room);
    let mut steps = GreedySteps::new();
    for (held, &token) in prompt.iter().enumerate() {
        // Of another token than the last step gave.
        let next = steps.step(&model, &mut cache, &[(0, token)], true).expect("room");
        assert_ne!(Some(&next[0]), prompt.get(held + 1));
        assert_eq!(cache.len(0), held + 1 + usize::from(ahead), "the next step is under way");
        assert!(held + 1 < prompt.len() || next == expected[..1], "{next:?}");
    }
    steps.cancel(&mut cache).expect("its cache");
    assert_eq!(cache.len(0), prompt.len());

    let mut session = Session::new(&model, 1, room);
    let mut generate = |prompt: &[u32], stop: StopConditions, most: usize| {
        let mut seen = 0;
        let generation = session.generate(&Request { prompt: prompt.to_vec(), stop, ..Request::default() }, |event| {
            seen += usize::from(matches!(event, Event::Token { .. }));
            if seen < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        let generation = generation.expect("a continuation");
        assert_eq!(session.cache().len(0), prompt.len() + generation.tokens.len() - 1, "nothing is under way any more");
        (generation.ids(), generation.finish_reason)
    };
    let whole = generate(&prompt, StopConditions::default(), usize::MAX);
    assert_eq!(whole, (expected[..count].to_vec(), FinishReason::ContextFull));
    for cut in 1..count {
        let stop = StopConditions { max_new_tokens: Some(cut), ..StopConditions::default() };
        assert_eq!(generate(&prompt, stop, usize::MAX), (expected[..cut].to_vec(), FinishReason::MaxNewTokens));
        assert_eq!(
            generate(&prompt, StopConditions::default(), cut),
            (expected[..cut].to_vec(), FinishReason::Cancelled),
            "stopped behind {cut}"
        );
        let longer = [&prompt[..], &expected[..cut]].concat();
        let rest = generate(&longer, StopConditions::default(), usize::MAX);
        assert_eq!(rest, (expected[cut..].to_vec(), FinishReason::ContextFull), "on from {cut}");
    }
}

/// The same of several sequences, some of which end on the way: the others' step goes on, theirs is forgotten.
pub fn greedy_steps_of_several_go_ahead<B: Backend>() {
    let model = wide_model::<B>(DType::F32, Quantization::q4());
    let ahead = model.model().queues_steps(3);
    assert_eq!(ahead, ops::queues::<B>(), "the steps of this model can be queued");
    let starts = [5_u32, 60, 41];
    let alone = |token: u32| -> Vec<u32> {
        let (mut cache, mut last) = (model.new_cache(1, 16), token);
        let mut steps = GreedySteps::new();
        let step = |_| {
            last = steps.step(&model, &mut cache, &[(0, last)], false).expect("room")[0];
            last
        };
        (0..6).map(step).collect()
    };
    let expected = starts.map(alone);

    let mut cache = model.new_cache(3, 16);
    let mut steps = GreedySteps::new();
    // Rows that take part in each step.
    let parts: [&[usize]; 6] = [&[0, 1, 2], &[0, 1, 2], &[0, 2], &[0, 2], &[2], &[2]];
    for (at, rows) in parts.into_iter().enumerate() {
        let last: Vec<(usize, u32)> =
            rows.iter().map(|&row| (row, if at == 0 { starts[row] } else { expected[row][at - 1] })).collect();
        let next = steps.step(&model, &mut cache, &last, true).expect("room");
        assert_eq!(next, rows.iter().map(|&row| expected[row][at]).collect::<Vec<_>>(), "step {at}");
        for row in 0..3 {
            let taken = parts[..=at].iter().filter(|rows| rows.contains(&row)).count();
            let under_way = ahead && rows.contains(&row);
            assert_eq!(cache.len(row), taken + usize::from(under_way), "row {row} behind step {at}");
        }
    }
    steps.cancel(&mut cache).expect("its cache");
    assert_eq!([0, 1, 2].map(|row| cache.len(row)), [4, 2, 6]);
}

/// New tokens give the logits that they give when they are watched, which takes a layer apart and has the host sort them by expert: where a backend
/// has kernels for several steps at once they agree with the steps.
pub fn decoding_agrees_with_traced_decoding<B: Backend>() {
    for (dtype, rounding) in types::<B>("decoding_agrees_with_traced_decoding") {
        for quantization in [Quantization::q8(), Quantization::q4()] {
            let model = wide_model::<B>(dtype, quantization);
            let (mut cache, mut watched) = (model.new_cache(1, 32), model.new_cache(1, 32));
            // The last ones together.
            for token in [&[5_u32][..], &[17], &[3], &[3], &[60], &[9], &[41], &[5, 9, 60, 17, 3, 41, 8, 2, 33]] {
                let batch = TokenBatch::single(token, &model.device());
                let forward = |cache: &mut KvCache<B>, trace: bool| {
                    let options = ForwardOptions { trace, ..ForwardOptions::default() };
                    model.forward(&batch, cache, &options).expect("room").last_logits
                };
                let (found, expected) = (forward(&mut cache, false), forward(&mut watched, true));
                let expected = Tensor::<Reference, 2>::from_data(expected.into_data(), &Default::default());
                let bound = (1 + model.config().num_hidden_layers) as f64 * ROUNDINGS * rounding;
                within(&found, &expected, bound)
                    .unwrap_or_else(|error| panic!("{dtype:?}, {quantization:?}, token {token:?}: {error}"));
            }
        }
    }
}

/// Requests that share a session get what each gets alone: two that decode together, of which one ends and makes room for a third, so that steps
/// of one sequence and of several follow each other.
pub fn greedy_requests_share_a_session<B: Backend>() {
    let model = wide_model::<B>(DType::F32, Quantization::q4());
    let requests: Vec<Request> = [(&[5_u32, 17, 3][..], 9), (&[60, 9], 3), (&[41, 41, 8, 2], 5)]
        .into_iter()
        .map(|(prompt, most)| {
            let stop = StopConditions { max_new_tokens: Some(most), ..StopConditions::default() };
            Request { prompt: prompt.to_vec(), stop, ..Request::default() }
        })
        .collect();
    let go_on = |_: Event<'_>| ControlFlow::Continue(());
    let alone = |request: &Request| Session::new(&model, 1, 16).generate(request, go_on).expect("room").ids();
    let expected: Vec<Vec<u32>> = requests.iter().map(alone).collect();
    for rows in 1..=3 {
        let together = Session::new(&model, rows, 16).generate_all(&requests, go_on).expect("room");
        let found: Vec<Vec<u32>> = together.iter().map(|generation| generation.ids()).collect();
        assert_eq!(found, expected, "{rows} rows");
    }
}
