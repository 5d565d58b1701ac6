//! The golden cases on any backend, in `f32`.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use llama4::Llama4ForCausalLM;
use llama4::config::{ReturnHiddenStates, ReturnLogits};
use llama4::nn::{ForwardOptions, ForwardOutput, TokenBatch};

use crate::golden::{Golden, assert_close};
use crate::models::load;

/// Cases of one prompt each.
const SINGLE: [&str; 6] = [
    "p1_scout_like",
    "p2_maverick_like",
    "p3_chunked",
    "p4_temperature",
    "p5_ropescaled_bias_tied_gqa4",
    "p7_fp8_experts",
];
/// The batch of three prompts.
const BATCH: &str = "p6_batch_padded";
/// Largest difference of a logit or hidden state; the goldens themselves are 6e-5 apart between two implementations.
const TOLERANCE: f64 = 1e-3;

fn host<B: Backend>(tensor: Tensor<B, 2>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

fn run<B: Backend>(model: &Llama4ForCausalLM<B>, prompt: &[u32], options: &ForwardOptions) -> ForwardOutput<B> {
    let mut cache = model.new_cache(1, prompt.len());
    model.forward(&TokenBatch::single(prompt, &model.device()), &mut cache, options).expect("the prompt fits")
}

fn everything() -> ForwardOptions {
    ForwardOptions { logits: ReturnLogits::All, hidden_states: ReturnHiddenStates::AllNormalized, trace: true }
}

/// Logits of every position and the final hidden states, against both references.
pub fn prompt_logits_and_hidden_states<B: Backend>() {
    for name in SINGLE {
        let golden = Golden::open(name);
        let model = load::<B>(&golden.dir);
        let output = run(&model, &golden.ids("prompt_ids"), &everything());
        let logits = host(output.logits.expect("all logits"));
        assert_close(&format!("{name} logits"), &logits, golden.values("logits"), TOLERANCE);
        assert_close(&format!("{name} logits, f64"), &logits, golden.values("logits_f64"), TOLERANCE);
        let hidden = host(output.hidden_states[0].clone());
        assert_close(&format!("{name} hidden"), &hidden, golden.values("last_hidden_state"), TOLERANCE);
    }
}

/// The residual stream after each layer, each attention's output, and the router's logits.
pub fn intermediate_values<B: Backend>() {
    for name in SINGLE {
        let golden = Golden::open(name);
        let model = load::<B>(&golden.dir);
        let trace = run(&model, &golden.ids("prompt_ids"), &everything()).trace.expect("a trace");
        let mut compared = 0;
        let mut compare = |what: String, found: &Tensor<B, 2>| {
            let key = format!("debug.{what}");
            if golden.has(&key) {
                assert_close(&format!("{name} {what}"), &host(found.clone()), golden.values(&key), TOLERANCE);
                compared += 1;
            }
        };
        for (layer, output) in trace.layers.iter().enumerate() {
            compare(format!("layer_{layer}.attention"), &trace.attention[layer]);
            compare(format!("layer_{layer}.output"), output);
            if let Some(routing) = &trace.routing[layer] {
                compare(format!("layer_{layer}.router_logits"), &routing.logits);
            }
        }
        assert!(compared >= trace.layers.len(), "{name} has golden intermediate values, {compared} compared");
    }
}

/// Greedy ids of a prompt by single decode steps, and the logits they were chosen from.
fn greedy<B: Backend>(model: &Llama4ForCausalLM<B>, prompt: &[u32], steps: usize) -> (Vec<u32>, Vec<f32>) {
    let mut cache = model.new_cache(1, prompt.len() + steps);
    let (mut ids, mut all) = (Vec::new(), Vec::new());
    let mut tokens = prompt.to_vec();
    for _ in 0..steps {
        let batch = TokenBatch::single(&tokens, &model.device());
        let output = model.forward(&batch, &mut cache, &ForwardOptions::default()).expect("the context fits");
        let logits = host(output.last_logits);
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("logits") as u32;
        ids.push(best);
        tokens = vec![best];
        all.extend(logits);
    }
    (ids, all)
}

/// 24 greedy tokens through the cache, ids exact.
pub fn greedy_continuations<B: Backend>() {
    for name in SINGLE {
        let golden = Golden::open(name);
        let expected = golden.ids("generated_ids");
        let (ids, logits) = greedy(&load::<B>(&golden.dir), &golden.ids("prompt_ids"), expected.len());
        assert_eq!(ids, expected, "{name}");
        assert_close(&format!("{name} decode"), &logits, golden.values("generated_logits"), TOLERANCE);
    }
}

/// The session stops at an end id, which is the last token; with end ids ignored, or with the config's, which no golden continuation reaches,
/// it goes on.
pub fn greedy_continuation_stops_at_the_end_ids<B: Backend>() {
    use std::ops::ControlFlow;

    use llama4::generate::{FinishReason, Request, Session, StopConditions};
    for name in SINGLE {
        let golden = Golden::open(name);
        let model = load::<B>(&golden.dir);
        let prompt = golden.ids("prompt_ids");
        let expected = golden.ids("generated_ids");
        let mut session = Session::new(&model, 1, prompt.len() + 24);
        let mut generate = |end_ids: &[u32], ignore_eos| {
            let end_ids = end_ids.to_vec();
            let stop = StopConditions { end_ids, max_new_tokens: Some(24), ignore_eos, ..Default::default() };
            let request = Request { prompt: prompt.clone(), stop, ..Default::default() };
            let generation = session.generate(&request, |_| ControlFlow::Continue(())).expect("a continuation");
            (generation.ids(), generation.finish_reason)
        };
        let all = (expected.clone(), FinishReason::MaxNewTokens);
        assert_eq!(generate(&model.config().eos_token_ids, false), all, "{name}, the config's end ids");
        let end = expected[7];
        let first = expected.iter().position(|&id| id == end).expect("it is there");
        let until = (expected[..=first].to_vec(), FinishReason::EndToken(end));
        assert_eq!(generate(&[end], false), until, "{name}, until {end}");
        assert_eq!(generate(&[end], true), all, "{name}, {end} ignored");
    }
}

/// Prompts of different lengths in one batch, from rows padded left and right: each row as alone.
pub fn batch_rows_equal_the_row_alone<B: Backend>() {
    let golden = Golden::open(BATCH);
    let model = load::<B>(&golden.dir);
    let lengths: Vec<usize> = golden.ids("lengths").iter().map(|&length| length as usize).collect();
    for side in ["left", "right"] {
        let [rows, width] = *golden.shape(&format!("{side}.input_ids")) else { panic!("a batch of rows") };
        let ids = golden.ids(&format!("{side}.input_ids"));
        let mask: Vec<bool> = golden.ids(&format!("{side}.attention_mask")).iter().map(|&real| real == 1).collect();
        let ids: Vec<&[u32]> = ids.chunks(width).collect();
        let masks: Vec<&[bool]> = mask.chunks(width).collect();
        let mut cache = model.new_cache(rows, width);
        let batch = TokenBatch::from_padded(&ids, &masks, &model.device());
        let output = model.forward(&batch, &mut cache, &everything()).expect("the batch fits");
        let (logits, offsets) = (output.logits.expect("all logits"), output.offsets.expect("offsets"));
        for row in 0..rows {
            let real: Vec<usize> = (0..width).filter(|&at| masks[row][at]).collect();
            assert_eq!(real.len(), lengths[row]);
            for (key, found) in [("logits", &logits), ("last_hidden_state", &output.hidden_states[0])] {
                let key = format!("{side}.{key}");
                let columns = golden.shape(&key)[2];
                let golden_row = &golden.values(&key)[row * width * columns..];
                let expected: Vec<f64> =
                    real.iter().flat_map(|at| golden_row[at * columns..(at + 1) * columns].to_vec()).collect();
                let found = host(found.clone().narrow(0, offsets[row], lengths[row]));
                assert_close(&format!("{key} of row {row}"), &found, &expected, TOLERANCE);
            }
        }
        // Decode the three rows together, each on from its own length.
        let expected = golden.ids("generated_ids");
        let steps = expected.len() / rows;
        let mut cache = model.new_cache(rows, width + steps);
        let mut next: Vec<(usize, Vec<u32>)> = (0..rows)
            .map(|row| (row, (0..width).filter(|&at| masks[row][at]).map(|at| ids[row][at]).collect()))
            .collect();
        for step in 0..steps {
            let batch = TokenBatch::new(&next, &model.device());
            let output = model.forward(&batch, &mut cache, &ForwardOptions::default()).expect("room");
            let chosen: Vec<u32> = output.last_logits.argmax(1).into_data().iter::<u32>().collect();
            for row in 0..rows {
                assert_eq!(chosen[row], expected[row * steps + step], "{side}, row {row}, step {step}");
            }
            next = chosen.into_iter().enumerate().map(|(row, id)| (row, vec![id])).collect();
        }
    }
}

/// A prompt in two pieces, split at every place, gives the logits of one pass.
pub fn prefill_split_anywhere<B: Backend>() {
    for name in SINGLE {
        let golden = Golden::open(name);
        let model = load::<B>(&golden.dir);
        let prompt = golden.ids("prompt_ids");
        let columns = golden.shape("logits")[1];
        for split in 1..prompt.len() {
            let mut cache = model.new_cache(1, prompt.len());
            let mut piece = |tokens: &[u32]| {
                let batch = TokenBatch::single(tokens, &model.device());
                let output = model.forward(&batch, &mut cache, &ForwardOptions::all_logits()).expect("room");
                host(output.logits.expect("all logits"))
            };
            let mut logits = piece(&prompt[..split]);
            logits.extend(piece(&prompt[split..]));
            assert_eq!(logits.len(), prompt.len() * columns);
            assert_close(&format!("{name} split at {split}"), &logits, golden.values("logits"), TOLERANCE);
        }
    }
}
