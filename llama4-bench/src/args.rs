use std::path::PathBuf;

/// Measure prefill and decode speed of a Llama 4 checkpoint.
///
/// Every case is run once to warm up and then several times; the table gives the median and the 10th and 90th percentile in tokens per
/// second.
#[derive(Debug, clap::Parser)]
#[command(version, after_help = "Example:\n  llama4-bench --model fixtures/demo --prefill 128,512 --decode 0,256")]
pub(crate) struct Args {
    /// Folder of the checkpoint
    #[arg(long, value_name = "DIR", default_value = "fixtures/demo")]
    pub(crate) model: PathBuf,
    /// Prompt lengths to prefill
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_value = "128,512")]
    pub(crate) prefill: Vec<usize>,
    /// Context depths to decode at
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_value = "0,256")]
    pub(crate) decode: Vec<usize>,
    /// Tokens decoded in each repeat
    #[arg(long, value_name = "TOKENS", default_value_t = 32, value_parser = positive)]
    pub(crate) decode_tokens: usize,
    /// Measured repeats of each case
    #[arg(long, value_name = "TIMES", default_value_t = 7, value_parser = positive)]
    pub(crate) repeats: usize,
    /// One JSON object a case instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}
