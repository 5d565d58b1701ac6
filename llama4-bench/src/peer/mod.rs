//! llama.cpp beside ours: the same cases on the same shapes, in alternation, since a machine's speed changes from minute to minute.
//!
//! One sequence is llama-bench's, several at once are llama-batched-bench's. Each repeat is a process of its own, which loads the model, warms
//! up and measures the case once; only what it measured counts.

mod child;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::DType;
use llama4::Llama4Config;
use llama4::quant::{Packing, Quantization};
use serde::Deserialize;

use crate::case::Case;
use crate::harness::quantile;
use crate::output;
use crate::record::Peer;

/// How far its number of parameters may be from ours: it counts the frequencies of scaled RoPE, which are no parameters.
const PARAMETERS: f64 = 1e-4;

/// Beside llama-bench.
const BATCHED: &str = "llama-batched-bench";

/// llama.cpp's programs and the file that they run.
#[derive(Debug)]
pub(crate) struct LlamaCpp {
    bench: PathBuf,
    /// Where there is one.
    batched: Option<PathBuf>,
    model: PathBuf,
    /// Threads that it may use: as many as this program computes with on a CPU.
    threads: usize,
    /// Parameters that its model must have.
    parameters: u64,
    /// Type that its weights must have, as llama.cpp calls it.
    type_name: &'static str,
}

/// What llama-bench says of one test; newer fields than these are left alone.
#[derive(Debug, Clone, Deserialize)]
struct Said {
    #[serde(default)]
    build_commit: String,
    #[serde(default)]
    model_type: String,
    model_n_params: u64,
    n_threads: Option<usize>,
    avg_ts: Option<f64>,
    #[serde(default)]
    samples_ts: Vec<f64>,
}

/// What llama-batched-bench says of one test.
#[derive(Debug, Clone, Deserialize)]
struct BatchedSaid {
    n_threads: Option<usize>,
    n_threads_batch: Option<usize>,
    pp: usize,
    tg: usize,
    pl: usize,
    speed_tg: f64,
}

/// Its repeats of one case.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    program: String,
    model: String,
    rates: Vec<f64>,
    host_peak: Option<u64>,
}

impl LlamaCpp {
    /// # Errors
    /// When the weights are held in a way that llama.cpp has no single type for.
    pub(crate) fn new(
        bench: &Path,
        model: &Path,
        config: &Llama4Config,
        dtype: DType,
        quantization: Option<Quantization>,
    ) -> Result<Self> {
        let type_name = match quantization {
            Some(quantization) => packing_name(quantization.weights),
            None => match dtype {
                DType::BF16 => "BF16",
                DType::F16 => "F16",
                DType::F32 => "F32",
                other => bail!("llama.cpp has no type like {}", other.name()),
            },
        };
        if let Some(Quantization { weights, head, embedding }) = quantization
            && (head, embedding) != (weights, weights)
        {
            output::say(format_args!(
                "head and embedding are {head} and {embedding}, which llama.cpp's may not be: --head {weights} --embedding \
                 {weights} makes them as the rest"
            ));
        }
        let batched = bench.with_file_name(BATCHED).with_extension(bench.extension().unwrap_or_default());
        Ok(Self {
            bench: bench.to_path_buf(),
            batched: batched.is_file().then_some(batched),
            model: model.to_path_buf(),
            threads: rayon::current_num_threads(),
            parameters: config.parameter_count().total(),
            type_name,
        })
    }

    /// Why it does not run this case too; `None` where it does.
    pub(crate) fn lacks(&self, case: &Case) -> Option<String> {
        match case {
            Case::Prefill { .. } | Case::Decode { sequences: 1, .. } => None,
            Case::Decode { .. } if self.batched.is_some() => None,
            Case::Decode { .. } => Some(format!("there is no {BATCHED} beside {}", self.bench.display())),
            Case::Load | Case::Operation { .. } => Some("llama.cpp has no such case".to_owned()),
        }
    }

    /// One repeat of a case.
    ///
    /// # Errors
    /// When it does not run, what it says cannot be read, or its model is not ours.
    pub(crate) fn repeat(&self, case: &Case, rates: &mut Rates) -> Result<()> {
        match *case {
            Case::Prefill { tokens } => self.one([tokens, 0, 0], rates),
            Case::Decode { sequences: 1, depth, tokens } => self.one([0, tokens, depth], rates),
            Case::Decode { sequences, depth, tokens } => self.together([depth, tokens, sequences], rates),
            Case::Load | Case::Operation { .. } => bail!("llama.cpp has no such case"),
        }
    }

    /// llama-bench: a prompt, or tokens after a context of some depth.
    fn one(&self, [prompt, generated, depth]: [usize; 3], rates: &mut Rates) -> Result<()> {
        let numbers = [("-p", prompt), ("-n", generated), ("-d", depth), ("-t", self.threads), ("-r", 1)];
        let (said, host_peak) = self.bench(&numbers, &[])?;
        let rate = said.samples_ts.first().copied().or(said.avg_ts);
        let rate = rate.with_context(|| format!("{} gave neither samples_ts nor avg_ts", self.bench.display()))?;
        rates.push(&said, rate, host_peak);
        Ok(())
    }

    fn bench(&self, numbers: &[(&str, usize)], flags: &[&str]) -> Result<(Said, Option<u64>)> {
        let mut command = Command::new(&self.bench);
        command.arg("-m").arg(&self.model).args(["-o", "json"]).args(words(numbers)).args(flags);
        let finished = child::run(&mut command)?;
        let name = self.bench.display();
        let said: Vec<Said> =
            serde_json::from_slice(&finished.stdout).with_context(|| format!("what {name} said is not its JSON"))?;
        let [said] = &said[..] else { bail!("{name} made {} tests of one case", said.len()) };
        self.check(said)?;
        Ok((said.clone(), finished.host_peak))
    }

    /// llama-batched-bench: sequences that have a prompt each and generate together.
    fn together(&self, [prompt, generated, sequences]: [usize; 3], rates: &mut Rates) -> Result<()> {
        let Some(program) = &self.batched else { bail!("there is no {BATCHED}") };
        // It does not say what model it runs; llama-bench does, of a token.
        let model = match rates.rates.is_empty() {
            true => Some(self.bench(&[("-p", 0), ("-n", 1), ("-t", self.threads), ("-r", 1)], &["--no-warmup"])?.0),
            false => None,
        };
        // Without a prompt it does not run.
        let prompt = prompt.max(1);
        let numbers = [
            ("-c", sequences * (prompt + generated)),
            ("-npp", prompt),
            ("-ntg", generated),
            ("-npl", sequences),
            ("-t", self.threads),
        ];
        let mut command = Command::new(program);
        command.arg("-m").arg(&self.model).args(["--output-format", "jsonl"]).args(words(&numbers));
        let finished = child::run(&mut command)?;
        let (name, text) = (program.display(), String::from_utf8_lossy(&finished.stdout));
        let tests = text.lines().filter(|line| line.trim_start().starts_with('{'));
        let tests: Vec<BatchedSaid> = tests
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()
            .with_context(|| format!("what {name} said is not its JSON"))?;
        let [said] = &tests[..] else { bail!("{name} made {} tests of one case", tests.len()) };
        let made = [said.pp, said.tg, said.pl];
        ensure!(
            made == [prompt, generated, sequences],
            "{name} ran {made:?} and not {prompt}, {generated}, {sequences}"
        );
        self.check_threads([said.n_threads, said.n_threads_batch].into_iter().flatten())?;
        match model {
            Some(model) => rates.push(&model, said.speed_tg, finished.host_peak),
            None => rates.add(said.speed_tg, finished.host_peak),
        }
        Ok(())
    }

    /// Whether it ran the same model, on as many threads.
    fn check(&self, said: &Said) -> Result<()> {
        let (ours, theirs) = (self.parameters as f64, said.model_n_params as f64);
        ensure!(
            (theirs / ours - 1.0).abs() < PARAMETERS,
            "{} has {} parameters, ours {}: it is not the same shape",
            self.model.display(),
            said.model_n_params,
            self.parameters
        );
        let found = said.model_type.split_whitespace().any(|word| word == self.type_name);
        ensure!(found, "{} is \"{}\", but ours is held as {}", self.model.display(), said.model_type, self.type_name);
        self.check_threads(said.n_threads)
    }

    fn check_threads(&self, said: impl IntoIterator<Item = usize>) -> Result<()> {
        let ours = self.threads;
        said.into_iter().try_for_each(|theirs| {
            ensure!(theirs == ours, "llama.cpp ran on {theirs} threads, but was asked to on {ours}");
            Ok(())
        })
    }
}

/// Flags and their numbers, as a command line has them.
fn words(numbers: &[(&str, usize)]) -> Vec<String> {
    numbers.iter().flat_map(|(flag, number)| [(*flag).to_owned(), number.to_string()]).collect()
}

/// What llama.cpp calls a packing.
fn packing_name(packing: Packing) -> &'static str {
    match packing {
        Packing::Q8 => "Q8_0",
        Packing::Q4 => "Q4_0",
        Packing::Bf16 => "BF16",
        Packing::F16 => "F16",
    }
}

impl Rates {
    fn push(&mut self, said: &Said, rate: f64, host_peak: Option<u64>) {
        self.program = format!("llama.cpp {}", said.build_commit).trim_end().to_owned();
        self.model.clone_from(&said.model_type);
        self.add(rate, host_peak);
    }

    fn add(&mut self, rate: f64, host_peak: Option<u64>) {
        self.rates.push(rate);
        self.host_peak = self.host_peak.max(host_peak);
    }

    /// Beside our median rate, and the most memory that we took; `None` where there was no repeat.
    pub(crate) fn beside(self, ours: f64, host_peak: Option<u64>) -> Option<Peer> {
        let median = quantile(&self.rates, 0.5);
        (!self.rates.is_empty()).then(|| Peer {
            program: self.program,
            model: self.model,
            median,
            ratio: ours / median,
            rates: self.rates,
            host_peak: self.host_peak,
            memory_ratio: host_peak.zip(self.host_peak).map(|(ours, theirs)| ours as f64 / theirs as f64),
        })
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A program that says `json` and keeps its arguments.
    fn fake(dir: &Path, name: &str, json: &str) -> PathBuf {
        let program = dir.join(name);
        let script = format!("#!/bin/sh\necho \"$@\" >> {0}/arguments\ncat <<'END'\n{json}\nEND\n", dir.display());
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    fn json(parameters: u64, kind: &str) -> String {
        format!(
            r#"[{{"build_commit": "0c1e57098", "model_type": "llama4 ?B {kind}", "model_n_params": {parameters},
                "n_threads": {}, "n_prompt": 0, "n_gen": 32, "n_depth": 4096, "avg_ts": 99.0, "samples_ts": [ 100.5 ], "new": {{}}}}]"#,
            rayon::current_num_threads()
        )
    }

    fn bench(dir: &Path, json: &str) -> LlamaCpp {
        let quantization = Some(Quantization::uniform(Packing::Q4));
        let program = fake(dir, "llama-bench", json);
        LlamaCpp::new(&program, Path::new("x.gguf"), &Llama4Config::cpu(), DType::F32, quantization).unwrap()
    }

    const CASE: Case = Case::Decode { sequences: 1, depth: 4096, tokens: 32 };

    #[test]
    fn its_rates_are_read_and_compared() {
        let dir = tempfile::tempdir().unwrap();
        let bench = bench(dir.path(), &json(Llama4Config::cpu().parameter_count().total() + 32, "Q4_0"));
        let mut rates = Rates::default();
        bench.repeat(&CASE, &mut rates).unwrap();
        bench.repeat(&Case::Prefill { tokens: 512 }, &mut rates).unwrap();
        let peer = rates.beside(201.0, None).unwrap();
        assert_eq!((peer.rates.as_slice(), peer.ratio), (&[100.5, 100.5][..], 2.0));
        assert_eq!(peer.program, "llama.cpp 0c1e57098");
        let arguments = fs::read_to_string(dir.path().join("arguments")).unwrap();
        assert!(arguments.contains("-m x.gguf -o json -p 0 -n 32 -d 4096"), "{arguments}");
        let threads = rayon::current_num_threads();
        assert!(arguments.contains(&format!("-p 512 -n 0 -d 0 -t {threads} -r 1")), "{arguments}");
    }

    #[test]
    fn sequences_together_are_run_by_the_program_beside_it() {
        let case = Case::Decode { sequences: 16, depth: 128, tokens: 32 };
        let dir = tempfile::tempdir().unwrap();
        let said = json(Llama4Config::cpu().parameter_count().total(), "Q4_0");
        let lacks = bench(dir.path(), &said).lacks(&case).unwrap();
        assert!(lacks.contains("no llama-batched-bench beside"), "{lacks}");

        let threads = rayon::current_num_threads();
        let line = |sequences: usize| {
            format!(
                "\nsome words\n{{\"n_kv_max\": 4096, \"n_threads\": {threads}, \"n_threads_batch\": {threads}, \"pp\": 128, \"tg\": 32, \
                 \"pl\": {sequences}, \"speed_pp\": 250.0, \"t_tg\": 4.0, \"speed_tg\": 128.0, \"speed\": 99.0}}\n"
            )
        };
        fake(dir.path(), BATCHED, &line(16));
        let bench = bench(dir.path(), &said);
        assert_eq!(bench.lacks(&case), None);
        let mut rates = Rates::default();
        bench.repeat(&case, &mut rates).unwrap();
        bench.repeat(&case, &mut rates).unwrap();
        let peer = rates.beside(64.0, None).unwrap();
        assert_eq!((peer.rates.as_slice(), peer.ratio, peer.memory_ratio), (&[128.0, 128.0][..], 0.5, None));
        assert_eq!(peer.program, "llama.cpp 0c1e57098");
        let arguments = fs::read_to_string(dir.path().join("arguments")).unwrap();
        let lines: Vec<&str> = arguments.lines().collect();
        // The model is looked at once.
        assert_eq!(lines.len(), 3, "{arguments}");
        assert!(lines[0].ends_with("--no-warmup"), "{arguments}");
        assert_eq!(lines[1], format!("-m x.gguf --output-format jsonl -c 2560 -npp 128 -ntg 32 -npl 16 -t {threads}"));
        fake(dir.path(), BATCHED, &line(8));
        let error = bench.repeat(&case, &mut Rates::default()).unwrap_err().to_string();
        assert!(error.contains("[128, 32, 8]"), "{error}");
    }

    #[test]
    fn memory_is_compared_where_both_are_known() {
        let rates = || Rates { rates: vec![1.0], host_peak: Some(100), ..Rates::default() };
        assert_eq!(rates().beside(1.0, Some(250)).unwrap().memory_ratio, Some(2.5));
        assert_eq!(rates().beside(1.0, None).unwrap().memory_ratio, None);
        let mut rates = rates();
        rates.add(2.0, Some(300));
        rates.add(3.0, None);
        assert_eq!(rates.beside(1.0, None).unwrap().host_peak, Some(300));
    }

    #[test]
    fn another_model_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let total = Llama4Config::cpu().parameter_count().total();
        let error = |json: &str| bench(dir.path(), json).repeat(&CASE, &mut Rates::default()).unwrap_err().to_string();
        let shape = error(&json(total * 2, "Q4_0"));
        assert!(shape.contains(&total.to_string()) && shape.contains("not the same shape"), "{shape}");
        let kind = error(&json(total, "Q8_0"));
        assert!(kind.contains("Q8_0") && kind.contains("Q4_0"), "{kind}");
        assert!(error("no json").contains("not its JSON"));
        let threads = error(&json(total, "Q4_0").replace("\"n_threads\": ", "\"n_threads\": 9"));
        assert!(threads.contains("threads, but was asked"), "{threads}");
    }

    #[test]
    fn a_failure_is_said_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let bench = bench(dir.path(), "");
        fs::write(&bench.bench, "#!/bin/sh\necho 'failed to load model' >&2\nexit 3\n").unwrap();
        let error = bench.repeat(&CASE, &mut Rates::default()).unwrap_err().to_string();
        assert!(error.contains("failed to load model") && error.contains('3'), "{error}");
        assert!(Rates::default().beside(1.0, None).is_none());
    }
}
