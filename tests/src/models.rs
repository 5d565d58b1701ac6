//! Models for the tests: golden checkpoints from disk, and tiny random ones.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::backend::Backend;
use llama4::import::{LoadOptions, load as load_source};
use llama4::{Llama4Config, Llama4ForCausalLM};
use proptest::prelude::*;

/// The model of a checkpoint folder.
///
/// # Panics
/// If it does not load.
pub fn load<B: Backend>(dir: &Path) -> Llama4ForCausalLM<B> {
    let loaded = load_source::<B>(dir, &LoadOptions::default(), &B::Device::default(), |_| ControlFlow::Continue(()));
    match loaded {
        Ok(loaded) => loaded.model,
        Err(error) => panic!("{}: {error}", dir.display()),
    }
}

/// A tiny random model: dense and MoE layers, RoPE and NoPE layers, chunks of four, temperature tuning that starts early.
///
/// The weights are those of the backend's seed, scaled up so that every part of the model matters.
pub fn tiny<B: Backend>(config: &Llama4Config, seed: u64) -> Llama4ForCausalLM<B> {
    let device = B::Device::default();
    B::seed(&device, seed);
    let model = config.init::<B>(&device);
    burn::module::Module::map(model, &mut Louder)
}

/// Multiplies every matrix by ten: with a standard deviation of 0.02 and widths of 32 the layers would hardly change the stream.
struct Louder;

impl<B: Backend> burn::module::ModuleMapper<B> for Louder {
    fn map_float<const D: usize>(
        &mut self,
        param: burn::module::Param<burn::tensor::Tensor<B, D>>,
    ) -> burn::module::Param<burn::tensor::Tensor<B, D>> {
        // Detached, so that under autodiff the result is a parameter and not a product of one.
        param.map(|tensor| match D {
            1 => tensor,
            _ => {
                let required = tensor.is_require_grad();
                (tensor * 10.0).detach().set_require_grad(required)
            }
        })
    }
}

/// The shape of the tiny model.
pub fn tiny_config() -> Llama4Config {
    Llama4Config { floor_scale: 4.0, attn_scale: 0.5, ..Llama4Config::tiny_chunked() }
}

/// Token ids of the tiny model's vocabulary.
pub fn prompt(length: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Vec<u32>> {
    let vocab = tiny_config().vocab_size as u32;
    proptest::collection::vec(0..vocab, length)
}
