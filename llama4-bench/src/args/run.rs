use std::path::PathBuf;

use llama4_backends::BackendArgs;

use super::{Preset, WeightArgs};

/// Measure cases on a model
///
/// Prompts go through the model in pieces of 512 tokens, 2048 through wgpu and 4096 on CUDA, as in generating text. A depth is reached by filling the cache with random keys and
/// values: what a step costs depends on how many there are and not on what they are. Every case is run once to warm up, and
/// then until it has its repeats or its time is up; the record says how many there were.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = "`llama4-bench run --help` has examples.")]
pub(crate) struct RunArgs {
    /// Whose shape
    #[arg(long, value_enum, value_name = "NAME", default_value = "demo", help_heading = "Model")]
    pub(crate) preset: Preset,
    /// A checkpoint instead: its folder or GGUF file. Loading it is a case of its own
    #[arg(short, long, value_name = "PATH", conflicts_with_all = ["preset", "layers", "seed"], help_heading = "Model")]
    pub(crate) model: Option<PathBuf>,
    /// The shape's first N layers alone
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub(crate) layers: Option<usize>,
    /// The same seed gives the same weights
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Model")]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) weights: WeightArgs,

    #[command(flatten)]
    pub(crate) backend: BackendArgs,

    /// Lengths of prompts to process; `none` for no such case
    #[arg(long, value_name = "TOKENS", default_value = "128,512,2048,8192", value_parser = list, help_heading = "Cases")]
    pub(crate) prefill: List,
    /// Depths of context to generate at, one sequence; `none` for no such case
    #[arg(long, value_name = "TOKENS", default_value = "0,4096,32768", value_parser = list, help_heading = "Cases")]
    pub(crate) decode: List,
    /// Numbers of sequences to generate at once; `none` for no such case
    #[arg(long, value_name = "SEQUENCES", default_value = "1,8,32", value_parser = list, help_heading = "Cases")]
    pub(crate) batch: List,
    /// Depth of context of those
    #[arg(long, value_name = "TOKENS", default_value_t = 128, help_heading = "Cases")]
    pub(crate) batch_depth: usize,
    /// Tokens that each sequence generates in a repeat
    #[arg(long, value_name = "TOKENS", default_value_t = 32, value_parser = positive, help_heading = "Cases")]
    pub(crate) decode_tokens: usize,
    /// The same where several sequences generate at once [default: as --decode-tokens]
    #[arg(long, value_name = "TOKENS", value_parser = positive, help_heading = "Cases")]
    pub(crate) batch_tokens: Option<usize>,
    /// Also every operation alone, with the model's shapes, for one token and for a piece of a prompt
    #[arg(long, help_heading = "Cases")]
    pub(crate) ops: bool,

    /// Measured repeats of a case
    #[arg(long, value_name = "TIMES", default_value_t = 7, value_parser = positive, help_heading = "Measuring")]
    pub(crate) repeats: usize,
    /// Start no further repeat of a case this long after its warm-up; one is always made
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds, help_heading = "Measuring")]
    pub(crate) max_seconds: f64,
    /// Append a line of JSON for each case to this file, as soon as it is measured
    #[arg(short, long, value_name = "FILE.jsonl", help_heading = "Measuring")]
    pub(crate) out: Option<PathBuf>,
    /// Print the lines of JSON instead of a table
    #[arg(long, help_heading = "Measuring")]
    pub(crate) json: bool,

    /// llama.cpp's llama-bench, to run the same cases in alternation with ours, on as many threads. Several sequences at once need the
    /// llama-batched-bench that is beside it
    #[arg(long, value_name = "PATH", requires = "llama_model", help_heading = "Peer")]
    pub(crate) llama_bench: Option<PathBuf>,
    /// A GGUF file of the same dimensions and quantisation for it
    #[arg(long, value_name = "FILE.gguf", requires = "llama_bench", help_heading = "Peer")]
    pub(crate) llama_model: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  llama4-bench run --preset cpu --layers 4 --quantize q4 --prefill 128,512 --decode 0,4096 --out cpu.jsonl
  llama4-bench run --preset scout --layers 4 --ops --repeats 20
      four of Scout's layers, and every operation alone
  llama4-bench run --preset cpu --quantize q4 --head q4 --embedding q4 --prefill 512 --decode 512 --decode-tokens 64
      --batch 16 --batch-tokens 32 --llama-bench ./llama-bench --llama-model cpu-Q4_0.gguf
      beside llama.cpp on the same shapes: a prompt, 64 tokens after 512, and 16 sequences together
  llama4-bench run --model ./Llama-4-Scout --prefill none --decode none --batch none
      how long a checkpoint takes to load";

/// Numbers separated by commas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct List(pub(crate) Vec<usize>);

fn list(text: &str) -> Result<List, String> {
    if text == "none" {
        return Ok(List::default());
    }
    let numbers = text.split(',').map(|part| {
        part.trim().parse().map_err(|_| format!("expected numbers separated by commas, or `none`; found \"{part}\""))
    });
    numbers.collect::<Result<_, _>>().map(List)
}

pub(super) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds.is_finite() => Ok(seconds),
        _ => Err("expected a number of seconds above 0".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_numbers_or_none() {
        assert_eq!(list("128, 512").unwrap().0, [128, 512]);
        assert_eq!(list("none").unwrap(), List::default());
        assert!(list("1,x").unwrap_err().contains("\"x\""));
        assert!(seconds("0").is_err() && seconds("nan").is_err() && seconds("0.5").is_ok());
    }
}
