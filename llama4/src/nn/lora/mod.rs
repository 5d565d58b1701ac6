//! Low-rank adapters (LoRA, <https://arxiv.org/abs/2106.09685>): fine-tuning that leaves the weights alone and trains a narrow detour
//! around each.

mod adapter;
mod config;
mod model;

pub use adapter::LoraAdapter;
pub use config::{LoraConfig, LoraTarget};
