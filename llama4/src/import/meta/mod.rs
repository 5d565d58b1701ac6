//! Meta's own layout: `params.json`, and a PyTorch file for each of the ranks that the model was parted among, `consolidated.NN.pth`.
//!
//! Names, shapes and how the ranks are put together are those of Meta's `llama-models` (`models/llama4`) and of the script with which
//! transformers converts its files.

mod config;
mod places;
mod plan;
mod ranks;

pub(super) use config::read as read_config;
pub(super) use plan::plan;
pub(super) use ranks::{files, read};
