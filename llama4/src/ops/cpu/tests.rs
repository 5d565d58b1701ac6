//! What rounding activations does to a model.

use std::ops::ControlFlow;
use std::path::Path;

use burn_ndarray::NdArray;

use super::kernels;
use crate::generate::score;
use crate::import::{Checkpoint, LoadOptions};
use crate::ops::with_exact_activations;
use crate::quant::{Packing, Quantization};

/// Beginnings of books, of whose kind the demo model has read others.
const TEXT: &str = "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse, and nothing \
    particular to interest me on shore, I thought I would sail about a little and see the watery part of the world. It is a way I have of \
    driving off the spleen and regulating the circulation. Whenever I find myself growing grim about the mouth; whenever it is a damp, \
    drizzly November in my soul; whenever I find myself involuntarily pausing before coffin warehouses, and bringing up the rear of every \
    funeral I meet, then, I account it high time to get to sea as soon as I can. It is a truth universally acknowledged, that a single man \
    in possession of a good fortune, must be in want of a wife. However little known the feelings or views of such a man may be on his \
    first entering a neighbourhood, this truth is so well fixed in the minds of the surrounding families, that he is considered the \
    rightful property of some one or other of their daughters. In the beginning God created the heaven and the earth. And the earth was \
    without form, and void; and darkness was upon the face of the deep. And the Spirit of God moved upon the face of the waters. And God \
    said, Let there be light: and there was light. And God saw the light, that it was good: and God divided the light from the darkness. \
    And God called the light Day, and the darkness he called Night. And the evening and the morning were the first day.";

/// Perplexity of the demo model with weights of a packing, as it is computed and with exact activations.
fn perplexities(checkpoint: &Checkpoint, packing: Packing, tokens: &[u32], [context, stride]: [usize; 2]) -> [f64; 2] {
    let quantization = Some(Quantization::uniform(packing));
    let options = LoadOptions { quantization, ..LoadOptions::default() };
    let loaded = checkpoint.load::<NdArray>(&options, &Default::default(), |_| ControlFlow::Continue(())).unwrap();
    let of = || score(&loaded.model, tokens, context, stride, 1).unwrap().perplexity();
    [of(), with_exact_activations(of)]
}

fn demo() -> Checkpoint {
    Checkpoint::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/demo")).unwrap()
}

#[test]
fn rounded_activations_predict_a_text_as_well() {
    let checkpoint = demo();
    let tokens = checkpoint.tokenizer().unwrap().unwrap().encode(TEXT, true).unwrap();
    assert!(tokens.len() > 300, "{} tokens", tokens.len());
    for packing in [Packing::Q8, Packing::Q4] {
        let [rounded, exact] = perplexities(&checkpoint, packing, &tokens, [512, 256]);
        assert_eq!(rounded != exact, kernels::rounds_many(packing), "{packing}: what is rounded");
        assert!(
            (rounded / exact - 1.0).abs() < 0.01,
            "{packing}: perplexity {rounded}, {exact} with exact activations"
        );
    }
}

/// The figures of `docs/performance.md`: `fixtures/demo/README.md` says how the text is made.
#[test]
#[ignore = "needs data/demo/heldout.u16, and minutes"]
#[allow(clippy::print_stderr, reason = "the figures are what it is run for")]
fn rounded_activations_predict_the_held_out_text_as_well() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/demo/heldout.u16");
    let bytes = std::fs::read(path).unwrap();
    let tokens: Vec<u32> = bytes.as_chunks::<2>().0.iter().map(|token| u16::from_le_bytes(*token).into()).collect();
    for packing in [Packing::Q8, Packing::Q4] {
        let [rounded, exact] = perplexities(&demo(), packing, &tokens, [1024, 1024]);
        eprintln!("{packing}: {} tokens, perplexity {rounded:.3}, {exact:.3} with exact activations", tokens.len());
        assert!((rounded / exact - 1.0).abs() < 0.002, "{packing}: {rounded} and {exact}");
    }
}
