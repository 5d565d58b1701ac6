use std::time::Instant;

use anyhow::Result;
use llama4::Llama4Config;
use llama4::import::Synth;

use crate::args::{SynthArgs, SynthPreset};
use crate::exit::{Outcome, usage};
use crate::interrupt::Watch;
use crate::model::{follow, stopped};
use crate::output::Output;

pub(super) fn run(args: &SynthArgs, output: &Output) -> Result<Outcome> {
    let config = match args.preset {
        SynthPreset::Scout => Llama4Config::scout(),
        SynthPreset::Maverick => Llama4Config::maverick(),
        SynthPreset::Guard4 => Llama4Config::guard4(),
        SynthPreset::Tiny => Llama4Config::tiny_moe(),
    };
    let config = match args.layers {
        None => config,
        Some(layers) => config.with_layers(layers).map_err(|error| usage(format!("--layers: {error}")))?,
    };
    let synth =
        Synth { config, dtype: args.dtype.dtype(), seed: args.seed, shard_bytes: args.shard_size, replace: args.force };
    let started = Instant::now();
    let watch = Watch::begin();
    let bar = output.bytes_bar();
    let message = format!("Writing {}", args.output.display());
    let bytes = synth.write(&args.output, follow(&bar, &message, &watch)).map_err(stopped);
    drop(bar);
    let (bytes, seconds) = (bytes? as f64 / 1e9, started.elapsed().as_secs_f64());
    output.note(format_args!("{}: {bytes:.2} GB of random weights in {seconds:.1} s", args.output.display()));
    Ok(Outcome::Done)
}
