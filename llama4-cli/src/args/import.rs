use std::path::PathBuf;

use llama4_backends::QuantizeArgs;

use super::ModelArgs;

/// Convert a checkpoint, to 8 or 4 bits or as it is
///
/// Writes one folder with everything a model needs, which then loads at the speed of the disk. Weights pass through in
/// pieces: memory does not grow with the model. The folder appears whole or not at all.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = "`llama4-cli import --help` has examples.")]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Folder to write
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Replace the folder if it is there
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) quantize: QuantizeArgs,
    /// Most bytes of a file, as in 500M or 5G; a single tensor may be larger
    #[arg(long, value_name = "SIZE", default_value = "5G", value_parser = size)]
    pub(crate) shard_size: u64,
    /// Print one JSON object about what was done
    #[arg(long)]
    pub(crate) json: bool,
}

const EXAMPLES: &str = "\
Examples:
  llama4-cli import --model ./Llama-4-Scout --quantize q4 --output ./Scout-q4
      a checkpoint in Hugging Face's form, 4 bits, the head in 8 and the embedding in 16
  llama4-cli import --model ./Llama-4-Scout --quantize q4 --head q4 --embedding q4 --output ./Scout-small
  llama4-cli import --model ./Maverick-FP8 --output ./Maverick
      without --quantize: 8-bit floats become bf16, quantised blocks stay
  llama4-cli inspect --model ./Scout-q4 --verify
      compare every file with its checksum; `sha256sum --check SHA256SUMS` does the same

The folder has Hugging Face's names: a quantised weight NAME.weight is NAME.qweight (I32 words, [out, words])
and NAME.scales (F16, [out, in / 32]). Values are those of GGUF's Q8_0 and Q4_0.";

/// A number of bytes, with k, M or G for a power of 1000.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.to_ascii_uppercase().strip_suffix('B').unwrap_or(&text.to_ascii_uppercase()) {
        text if text.ends_with('K') => (text[..text.len() - 1].to_owned(), 1_000),
        text if text.ends_with('M') => (text[..text.len() - 1].to_owned(), 1_000_000),
        text if text.ends_with('G') => (text[..text.len() - 1].to_owned(), 1_000_000_000),
        text => (text.to_owned(), 1),
    };
    let size = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).filter(|size| *size > 0);
    size.ok_or_else(|| "it must be a number of bytes, as in 500M or 5G".to_owned())
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("5G"), Ok(5_000_000_000));
        assert_eq!(size("500mb"), Ok(500_000_000));
        assert_eq!(size("17"), Ok(17));
        for wrong in ["", "G", "-1", "0", "1T", "99999999999G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
