//! Adapters under autodiff: what is trained, and what gradients go through.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use burn::module::{AutodiffModule, Module, ModuleVisitor, Param};
use burn::optim::{GradientsParams, Optimizer, SgdConfig};
use burn::tensor::Tensor;
use burn::tensor::backend::AutodiffBackend;
use burn_autodiff::Autodiff;
use burn_ndarray::NdArray;
use llama4::Llama4ForCausalLM;
use llama4::error::LoraError;
use llama4::import::{LoadOptions, load, load_lora, save_lora};
use llama4::nn::{ForwardOptions, LoraConfig, LoraTarget, TokenBatch};
use llama4::quant::Quantization;
use llama4_tests::golden::Golden;
use llama4_tests::lora::{adapted, logits, off};
use llama4_tests::models::{tiny, tiny_config};

type Plain = NdArray<f32>;
type Differentiated = Autodiff<Plain>;

const TOKENS: [u32; 9] = [3, 1, 4, 1, 5, 9, 2, 6, 5];

llama4_tests::suite!(crate::Differentiated, lora:
    adapters_add_their_definition,
    fresh_adapters_change_nothing,
    merged_equals_adapted,
    saved_adapters_come_back,
);

/// Paths of all float parameters, and of those whose gradient is there and not zero.
struct Reached<'a, B: AutodiffBackend> {
    gradients: &'a B::Gradients,
    path: Vec<String>,
    all: BTreeSet<String>,
    reached: BTreeSet<String>,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for Reached<'_, B> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let path = self.path.join(".");
        self.all.insert(path.clone());
        if let Some(gradient) = param.val().grad(self.gradients) {
            // Nothing else may have a gradient, not even zeros.
            let moves = gradient.into_data().iter::<f32>().any(|value| value != 0.0);
            self.reached.insert(if moves { path } else { format!("{path} (zero)") });
        }
    }
}

fn gradients(model: &Llama4ForCausalLM<Differentiated>) -> <Differentiated as AutodiffBackend>::Gradients {
    let batch = TokenBatch::single(&TOKENS, &model.device());
    let mut cache = model.new_cache(1, TOKENS.len());
    let output = model.forward(&batch, &mut cache, &ForwardOptions::all_logits()).expect("room");
    output.logits.expect("all logits").powi_scalar(2).mean().backward()
}

fn reached(model: &Llama4ForCausalLM<Differentiated>) -> (BTreeSet<String>, BTreeSet<String>) {
    let gradients = gradients(model);
    let mut visitor = Reached::<Differentiated> {
        gradients: &gradients,
        path: Vec::new(),
        all: BTreeSet::new(),
        reached: BTreeSet::new(),
    };
    model.visit(&mut visitor);
    (visitor.all, visitor.reached)
}

#[test]
fn gradients_reach_the_adapters_of_the_targets_and_nothing_else() {
    let model = tiny::<Differentiated>(&tiny_config(), 31);
    for targets in [LoraTarget::ALL.to_vec(), vec![LoraTarget::QProj, LoraTarget::DownProj]] {
        let config = LoraConfig::new().with_rank(3).with_targets(targets.clone());
        let (all, reached) = reached(&adapted(model.clone(), &config, 1));
        let adapters: BTreeSet<String> = all.into_iter().filter(|path| path.contains(".lora.lora_")).collect();
        assert_eq!(adapters.len(), 2 * targets.len() * tiny_config().num_hidden_layers);
        assert_eq!(reached, adapters);
    }
}

#[test]
fn gradients_go_through_packed_weights() {
    let golden = Golden::open("p1_scout_like");
    let options = LoadOptions { quantization: Some(Quantization::q4()), ..LoadOptions::default() };
    let load = || {
        let device = Default::default();
        load::<Differentiated>(golden.dir.as_path(), &options, &device, |_| ControlFlow::Continue(())).unwrap().model
    };
    let config = LoraConfig::new().with_rank(2);
    let model = adapted(load(), &config, 2);
    assert!(model.packed_weights() > 20);
    let (all, reached) = reached(&model);
    assert_eq!(reached, all.into_iter().filter(|path| path.contains(".lora.lora_")).collect());

    // Files do not care what is packed.
    let dir = tempfile::tempdir().unwrap();
    save_lora(&model, dir.path(), None).unwrap();
    let loaded = load_lora(load(), dir.path()).unwrap();
    assert_eq!(logits(&loaded, &TOKENS), logits(&model, &TOKENS));

    match model.merge_lora().unwrap_err() {
        LoraError::Packed { name, .. } => assert_eq!(name, "model.layers.0.self_attn.q_proj"),
        error => panic!("{error}"),
    }
}

#[test]
fn an_optimizer_moves_the_adapters_alone() {
    let model = tiny::<Differentiated>(&tiny_config(), 32);
    let before = logits(&model, &TOKENS);
    let mut trained = model.with_lora(&LoraConfig::new().with_rank(2)).unwrap();
    let mut optimizer = SgdConfig::new().init();
    for _ in 0..2 {
        let gradients = GradientsParams::from_grads(gradients(&trained), &trained);
        trained = optimizer.step(0.1, trained, gradients);
    }
    assert!(off(&logits(&trained, &TOKENS), &before) > 1e-4);
    assert_eq!(logits(&trained.without_lora(), &TOKENS), before);
}

#[test]
fn dropout_is_for_training_alone() {
    let config = LoraConfig::new().with_dropout(0.5);
    let model = adapted(tiny::<Differentiated>(&tiny_config(), 33), &config, 3);
    let plain = model.valid();
    assert_eq!(logits(&plain, &TOKENS), logits(&plain, &TOKENS));
    assert_ne!(logits(&model, &TOKENS), logits(&model, &TOKENS));
    assert!(off(&logits(&model, &TOKENS), &logits(&plain, &TOKENS)) > 1e-4);
}
