//! The command line, through the real binary.

mod binary;
mod chat;
mod errors;
mod generate;
mod import;
mod interrupt;
mod logits;
mod looking;
mod lora;
mod tokenize;
