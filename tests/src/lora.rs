//! Adapters on any backend.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{Distribution, Tensor};
use llama4::Llama4ForCausalLM;
use llama4::import::{load_lora, save_lora};
use llama4::nn::{ForwardOptions, LoraAdapter, LoraConfig, LoraTarget, TokenBatch};
use proptest::prelude::*;

use crate::models::{prompt, tiny, tiny_config};
use crate::properties::{check, close, host, random};

/// A mapper that puts random values into all adapters, as if they were trained.
struct Trained {
    inside: bool,
}

impl<B: Backend> ModuleMapper<B> for Trained {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.inside |= name == "lora";
    }

    fn exit_module(&mut self, name: &str, _container_type: &str) {
        self.inside &= name != "lora";
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        if !self.inside {
            return param;
        }
        param.map(|tensor| {
            let required = tensor.is_require_grad();
            tensor.random_like(Distribution::Normal(0.0, 0.3)).detach().set_require_grad(required)
        })
    }
}

/// The model with adapters that do something.
///
/// # Panics
/// If it has adapters.
pub fn adapted<B: Backend>(model: Llama4ForCausalLM<B>, config: &LoraConfig, seed: u64) -> Llama4ForCausalLM<B> {
    let model = model.with_lora(config).expect("a model without adapters");
    B::seed(&model.device(), seed);
    model.map(&mut Trained { inside: false })
}

/// Logits of all tokens, in one pass.
pub fn logits<B: Backend>(model: &Llama4ForCausalLM<B>, tokens: &[u32]) -> Vec<f32> {
    let mut cache = model.new_cache(1, tokens.len());
    let batch = TokenBatch::single(tokens, &model.device());
    let output = model.forward(&batch, &mut cache, &ForwardOptions::all_logits()).expect("room");
    host(&output.logits.expect("all logits"))
}

/// Largest difference, relative to the largest value.
pub fn off(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1.0_f32, |most, value| most.max(value.abs()));
    found.iter().zip(expected).fold(0.0, |most, (found, expected)| most.max((found - expected).abs() / scale))
}

fn targets() -> impl Strategy<Value = Vec<LoraTarget>> {
    prop::sample::subsequence(LoraTarget::ALL.to_vec(), 1..=LoraTarget::ALL.len())
}

/// Ranks, strengths, scalings and targets of all kinds.
fn configs() -> impl Strategy<Value = LoraConfig> {
    (1..9_usize, 1..128_u8, any::<bool>(), targets()).prop_map(|(rank, quarters, stabilized, targets)| {
        let alpha = f64::from(quarters) / 4.0;
        LoraConfig::new().with_rank(rank).with_alpha(alpha).with_rank_stabilized(stabilized).with_targets(targets)
    })
}

/// What an adapter adds is `scale · B (A x)`, summed by hand in `f64`.
pub fn adapters_add_their_definition<B: Backend>() {
    let device = B::Device::default();
    check(
        24,
        (1..12_usize, 1..20_usize, 1..20_usize, configs(), any::<u64>()),
        |(rows, input, output, config, seed)| {
            let adapter = LoraAdapter::<B>::new(&config, input, output, &device);
            B::seed(&device, seed);
            let adapter = Module::<B>::map(adapter, &mut Trained { inside: true });
            let x = random::<B, 2>([rows, input], seed);
            let (found, x) = (host(&adapter.forward(x.clone())), host(&x));
            let (a, b) = (host(&adapter.a()), host(&adapter.b()));
            let scale =
                config.alpha / if config.rank_stabilized { (config.rank as f64).sqrt() } else { config.rank as f64 };
            let expected: Vec<f32> = (0..rows * output)
                .map(|at| {
                    let (row, output) = (at / output, at % output);
                    let narrow = |r: usize| -> f64 {
                        (0..input).map(|i| f64::from(a[r * input + i]) * f64::from(x[row * input + i])).sum()
                    };
                    let sum: f64 = (0..config.rank).map(|r| f64::from(b[output * config.rank + r]) * narrow(r)).sum();
                    (scale * sum) as f32
                })
                .collect();
            let off = off(&found, &expected);
            prop_assert!(off < 1e-5, "off by {off}");
            Ok(())
        },
    );
}

/// A fresh adapter changes no bit of any logit, and is taken off again as if it had not been.
pub fn fresh_adapters_change_nothing<B: Backend>() {
    let model = tiny::<B>(&tiny_config(), 21);
    check(8, (configs(), prompt(1..12)), |(config, tokens)| {
        // Among equal values it does not matter where attention looks: adapters of queries and keys alone would change nothing.
        prop_assume!(tokens.iter().any(|token| *token != tokens[0]));
        let expected = logits(&model, &tokens);
        let fresh = model.clone().with_lora(&config).expect("a model without adapters");
        prop_assert!(fresh.lora_parameters() > 0);
        prop_assert_eq!(&logits(&fresh, &tokens), &expected);
        let trained = adapted(model.clone(), &config, 1);
        prop_assert!(logits(&trained, &tokens) != expected, "trained adapters must change something");
        prop_assert_eq!(&logits(&trained.without_lora(), &tokens), &expected);
        Ok(())
    });
}

/// A merged model computes what the adapted one computes.
pub fn merged_equals_adapted<B: Backend>() {
    let model = tiny::<B>(&tiny_config(), 22);
    check(12, (configs(), prompt(1..12), any::<u64>()), |(config, tokens, seed)| {
        // Small beside the weight, as an adapter is: one many times as large makes scores of hundreds, and a softmax of those shows the last
        // bits of `f32`.
        let config = LoraConfig { alpha: config.alpha / 16.0, ..config };
        let adapted = adapted(model.clone(), &config, seed);
        let expected = logits(&adapted, &tokens);
        let merged = adapted.merge_lora().expect("float weights");
        prop_assert!(merged.lora().is_none() && merged.lora_parameters() == 0);
        // The sum of the products is rounded in another order, in every layer.
        close(&logits(&merged, &tokens), &expected)
    });
}

/// Saved and loaded adapters give the same logits bit for bit, and say how they were made.
pub fn saved_adapters_come_back<B: Backend>() {
    let model = tiny::<B>(&tiny_config(), 23);
    check(6, (configs(), prompt(1..12), any::<u64>()), |(config, tokens, seed)| {
        let adapted = adapted(model.clone(), &config, seed);
        let dir = tempfile::tempdir().expect("a folder");
        save_lora(&adapted, dir.path(), None).expect("saved");
        let loaded = load_lora(model.clone(), dir.path()).expect("loaded");
        prop_assert_eq!(loaded.lora(), Some(&config));
        prop_assert_eq!(logits(&loaded, &tokens), logits(&adapted, &tokens));
        Ok(())
    });
}

/// Every layer has its adapters, of the size of its projections.
pub fn adapters_number_their_values<B: Backend>() {
    let config = tiny_config();
    let count = |targets: Vec<LoraTarget>| {
        let lora = LoraConfig::new().with_rank(3).with_targets(targets);
        config.init::<B>(&B::Device::default()).with_lora(&lora).expect("fresh").lora_parameters()
    };
    let queries = config.num_attention_heads * config.head_dim;
    let expected = config.num_hidden_layers * 3 * (config.hidden_size + queries);
    assert_eq!(count(vec![LoraTarget::QProj]), expected);
    assert_eq!(count(vec![LoraTarget::QProj, LoraTarget::OProj]), 2 * expected);
    let width = |layer| if config.is_moe(layer) { config.intermediate_size } else { config.intermediate_size_mlp };
    let expected = (0..config.num_hidden_layers).map(|layer| 3 * (config.hidden_size + width(layer))).sum::<usize>();
    assert_eq!(count(vec![LoraTarget::DownProj]), expected);
}
