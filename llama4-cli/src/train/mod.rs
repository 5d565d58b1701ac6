//! Training of a model from scratch on a file of tokens: the library's own modules under burn's autodiff, AdamW, linear warm-up and
//! cosine decay, a loss curve, checkpoints and resume.

mod checkpoint;
mod clip;
mod curve;
mod data;
mod loss;
mod recipe;
mod run;

pub(crate) use recipe::Recipe;
pub(crate) use run::{Run, train};
