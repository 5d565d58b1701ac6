//! The command line, through the real binary.

mod binary;
mod chat;
mod errors;
mod generate;
mod interrupt;
mod logits;
mod looking;
mod tokenize;
