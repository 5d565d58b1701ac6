use anyhow::{Result, anyhow};
use burn::tensor::DType;
use llama4::Llama4Config;
use llama4::config::{HfConfig, KvCacheParams, PipelineConfig};
use llama4::error::ImportError;
use llama4::import::LoadReport;
use serde_json::{Value, json};

use crate::args::InspectArgs;
use crate::exit::{Outcome, usage};
use crate::interrupt::Watch;
use crate::layers::LayerKind;
use crate::memory::{self, bytes};
use crate::model::{Model, follow, stopped};
use crate::output::Output;

/// Context lengths that sizes are given for, as far as the model goes, besides its limit.
const CONTEXTS: [usize; 3] = [4096, 32_768, 131_072];

pub(super) fn run(args: &InspectArgs, output: &Output) -> Result<Outcome> {
    if args.estimate {
        return estimate(args, output);
    }
    let model = Model::open(&args.model)?;
    if args.verify {
        verify(&model, output)?;
    }
    let config = model.config();
    let survey = model.checkpoint().survey();
    let dtype = model.checkpoint().hf_config().dtype().unwrap_or(DType::F32);
    let cache = config.construct_kv_params(&PipelineConfig::default(), dtype)?;
    let contexts = contexts(args, config)?;
    if args.json {
        output.json(&as_json(&model, &survey, &cache, &contexts))?;
    } else {
        output.write(&as_text(&model, &survey, &cache, &contexts))?;
    }
    Ok(Outcome::Done)
}

/// What a run takes, from the configuration alone.
fn estimate(args: &InspectArgs, output: &Output) -> Result<Outcome> {
    let (name, hf, config) = match &args.model.model {
        // A folder to which only the configuration was downloaded.
        Some(dir) if dir.join("config.json").is_file() => {
            let hf = HfConfig::from_file(dir.join("config.json"))?;
            let config = hf.to_model_config()?;
            (dir.display().to_string(), hf, config)
        }
        _ => {
            let model = Model::open(&args.model)?;
            (model.name(), model.checkpoint().hf_config().clone(), model.config().clone())
        }
    };
    let stored = hf.dtype().unwrap_or(DType::BF16);
    let target = args.backend.target()?;
    let precision = target.backend.precision(args.float.asked());
    let dtype = precision.dtype;
    let quantization = precision.quantization(args.quantize.quantization());
    let free = target.free_memory();
    let mut rows = Vec::new();
    for context in contexts(args, &config)? {
        let estimate = memory::estimate(&config, quantization, [dtype, stored], context, args.batch, target);
        if args.json {
            rows.push(json!({
                "context": context,
                "batch": args.batch,
                "dtype": dtype.name(),
                "disk": estimate.disk,
                "weights": estimate.weights,
                "kv_cache": estimate.cache,
                "work": estimate.work,
                "total": estimate.device(),
                "largest_tensor": estimate.largest,
            }));
            continue;
        }
        if rows.is_empty() {
            output.line(format_args!(
                "{name}, {}, {} at once: {} on disk, {} of weights in memory (largest tensor {})",
                dtype.name(),
                args.batch,
                bytes(estimate.disk),
                bytes(estimate.weights),
                bytes(estimate.largest)
            ))?;
            rows.push(json!(null));
        }
        let fits = match free {
            Some(free) if estimate.device() <= free => "fits",
            Some(_) => "does not fit",
            None => "",
        };
        output.line(format_args!(
            "{context:>9} tokens  {:>9} key-value cache  {:>9} work space  {:>9} in all  {fits}",
            bytes(estimate.cache),
            bytes(estimate.work),
            bytes(estimate.device())
        ))?;
    }
    match (args.json, free) {
        (true, _) => output.json(&json!({ "model": name, "free": free, "estimates": rows }))?,
        (false, Some(free)) => {
            output.line(format_args!("{} has {} free", target.memory_name(), bytes(free)))?;
        }
        (false, None) => {}
    }
    Ok(Outcome::Done)
}

/// The checksums of a checkpoint's files; the error names the first that differs.
fn verify(model: &Model, output: &Output) -> Result<()> {
    let watch = Watch::begin();
    let bar = output.bytes_bar();
    let message = format!("Verifying {}", model.name());
    let verified = model.checkpoint().verify(follow(&bar, &message, &watch)).map_err(stopped);
    drop(bar);
    match verified? {
        Some(files) => output.note(format_args!("{}: {files} files agree with their checksums", model.name())),
        None => return Err(anyhow!("{} has no checksums (SHA256SUMS), which `import` writes", model.name())),
    }
    Ok(())
}

fn contexts(args: &InspectArgs, config: &Llama4Config) -> Result<Vec<usize>> {
    let limit = config.max_position_embeddings;
    if args.context.is_empty() {
        return Ok(CONTEXTS.into_iter().filter(|length| *length < limit).chain([limit]).collect());
    }
    match args.context.iter().find(|length| **length > limit) {
        Some(length) => Err(usage(format!("--context: {length}, but the model has at most {limit} positions"))),
        None => Ok(args.context.clone()),
    }
}

type Survey = Result<LoadReport, ImportError>;

fn as_text(model: &Model, survey: &Survey, cache: &KvCacheParams, contexts: &[usize]) -> String {
    let (checkpoint, config) = (model.checkpoint(), model.config());
    let mut page = Page::default();
    page.row("model", model.name());
    match survey {
        Ok(found) => {
            let dtypes: Vec<String> = found.dtypes.iter().map(|(dtype, count)| format!("{count} {dtype}")).collect();
            let dtypes = if dtypes.is_empty() { String::new() } else { format!(" ({})", dtypes.join(", ")) };
            let (form, tensors) = (found.form, found.tensors);
            page.row("weights", format!("{form}, {tensors} tensors{dtypes}, {}", bytes(found.bytes)));
            if found.skipped_vision > 0 {
                page.row("", format!("{} vision tensors, which are not used", found.skipped_vision));
            }
        }
        Err(error) => page.row("weights", format!("{}, cannot be loaded: {error}", checkpoint.form())),
    }
    page.row(
        "shape",
        format!(
            "{} layers, hidden {}, {} heads and {} kv heads of {}, vocabulary {}",
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            config.vocab_size
        ),
    );
    let experts = match config.moe_layers.is_empty() {
        true => "no experts".to_owned(),
        false => format!(
            "{} experts of {} and a shared one, {} a token",
            config.num_local_experts, config.intermediate_size, config.num_experts_per_tok
        ),
    };
    page.row("feed-forward", format!("{experts}; dense layers {}", config.intermediate_size_mlp));
    let scaling = config.rope_scaling_params.as_ref().map_or("no scaling".to_owned(), |scaling| {
        format!("llama3 scaling {} beyond {} positions", scaling.factor, scaling.orig_max_position)
    });
    page.row("rope", format!("theta {}, {scaling}", config.rope_theta));
    let switches = [
        ("QK norm", config.use_qk_norm),
        ("temperature tuning", config.attn_temperature_tuning),
        ("attention bias", config.attention_bias),
        ("tied embeddings", config.tie_word_embeddings),
    ];
    let on: Vec<&str> = switches.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    page.row("with", if on.is_empty() { "–".to_owned() } else { on.join(", ") });
    page.row("context", format!("{} positions", config.max_position_embeddings));
    page.row("ids", ids(config));

    page.heading("layers");
    for (kind, layers) in LayerKind::groups(config) {
        page.row(&kind.to_string(), format!("{:>3}: {}", layers.len(), ranges(&layers)));
    }
    page.heading("parameters");
    for (part, count) in parameters(config) {
        if count > 0 {
            page.row(part, format!("{:>9}  {count}", rounded(count)));
        }
    }
    page.heading(&format!("key-value cache of one sequence, {}", cache.dtype.name()));
    for &tokens in contexts {
        page.row(&format!("{tokens} tokens"), bytes(cache.bytes_at(tokens)));
    }
    page.text()
}

fn as_json(model: &Model, survey: &Survey, cache: &KvCacheParams, contexts: &[usize]) -> Value {
    let (checkpoint, config) = (model.checkpoint(), model.config());
    let weights = match survey {
        Ok(found) => json!({
            "form": found.form.to_string(),
            "tensors": found.tensors,
            "bytes": found.bytes,
            "dtypes": found.dtypes.iter().map(|(dtype, count)| (dtype.to_string(), *count)).collect::<std::collections::BTreeMap<_, _>>(),
            "skipped_vision": found.skipped_vision,
        }),
        Err(error) => json!({ "form": checkpoint.form().to_string(), "error": error.to_string() }),
    };
    let layers = (0..config.num_hidden_layers).map(|layer| {
        let kind = LayerKind::of(config, layer);
        json!({ "rope": kind.rope, "chunk": kind.chunk, "moe": kind.moe })
    });
    let parameters: serde_json::Map<_, _> =
        parameters(config).into_iter().map(|(part, count)| (part.replace([' ', '-'], "_"), count.into())).collect();
    let sizes = contexts.iter().map(|&tokens| json!({ "tokens": tokens, "bytes": cache.bytes_at(tokens) }));
    json!({
        "model": model.name(),
        "weights": weights,
        "config": config,
        "layers": layers.collect::<Vec<_>>(),
        "parameters": parameters,
        "kv_cache": { "dtype": cache.dtype.name(), "sizes": sizes.collect::<Vec<_>>() },
    })
}

fn parameters(config: &Llama4Config) -> [(&'static str, u64); 10] {
    let count = config.parameter_count();
    [
        ("total", count.total()),
        ("active a token", count.active()),
        ("embedding", count.embedding),
        ("head", count.head),
        ("attention", count.attention),
        ("dense MLPs", count.dense_mlp),
        ("routed experts", count.routed_experts),
        ("shared experts", count.shared_experts),
        ("routers", count.routers),
        ("norms", count.norms),
    ]
}

fn ids(config: &Llama4Config) -> String {
    let one = |id: Option<u32>| id.map_or("–".to_owned(), |id| id.to_string());
    let ends: Vec<String> = config.eos_token_ids.iter().map(u32::to_string).collect();
    let ends = if ends.is_empty() { "–".to_owned() } else { ends.join(", ") };
    format!("begin {}, end {ends}, pad {}", one(config.bos_token_id), one(config.pad_token_id))
}

/// Lines of a name and what there is to say about it, under headings.
#[derive(Default)]
struct Page {
    lines: Vec<(String, String)>,
}

impl Page {
    fn row(&mut self, name: &str, text: impl Into<String>) {
        let indent = if self.lines.iter().any(|(_, text)| text.is_empty()) { "  " } else { "" };
        self.lines.push((format!("{indent}{name}"), text.into()));
    }

    fn heading(&mut self, name: &str) {
        self.lines.push((format!("\n{name}"), String::new()));
    }

    fn text(&self) -> String {
        let rows = self.lines.iter().filter(|(_, text)| !text.is_empty());
        let width = rows.map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let line = |(name, text): &(String, String)| match text.is_empty() {
            true => format!("{name}\n"),
            false => format!("{name:width$}  {text}\n"),
        };
        self.lines.iter().map(line).collect()
    }
}

/// Numbers in increasing order, runs of three or more as ranges, steps kept: `0-2, 4-6, 8`.
fn ranges(numbers: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => parts.push((number, number)),
        }
    }
    let part = |(first, last): &(usize, usize)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first}-{last}"),
    };
    parts.iter().map(part).collect::<Vec<_>>().join(", ")
}

fn rounded(count: u64) -> String {
    let units = [(1e9, "B"), (1e6, "M"), (1e3, "k")];
    let count = count as f64;
    match units.into_iter().find(|(size, _)| count >= *size) {
        Some((size, unit)) => format!("{:.2} {unit}", count / size),
        None => format!("{count}  "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_ranges() {
        assert_eq!(ranges(&[0, 1, 2, 4, 5, 7]), "0-2, 4, 5, 7");
        assert_eq!(ranges(&[]), "");
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(rounded(107_770_000_000), "107.77 B");
    }
}
