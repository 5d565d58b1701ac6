//! llama.cpp's llama-bench beside ours: the same cases on the same shapes, in alternation, since a machine's speed changes from minute to
//! minute.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use llama4::Llama4Config;
use llama4::quant::{Packing, Quantization};
use serde::Deserialize;

use crate::case::Case;
use crate::harness::quantile;
use crate::record::Peer;

/// How far its number of parameters may be from ours: it counts the frequencies of scaled RoPE, which are no parameters.
const PARAMETERS: f64 = 1e-4;

/// llama-bench and the file that it runs.
#[derive(Debug)]
pub(crate) struct LlamaBench {
    program: PathBuf,
    model: PathBuf,
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
    avg_ts: Option<f64>,
    #[serde(default)]
    samples_ts: Vec<f64>,
}

/// Its repeats of one case.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    program: String,
    model: String,
    rates: Vec<f64>,
}

impl LlamaBench {
    /// # Errors
    /// When the weights are held in a way that llama.cpp has no single type for.
    pub(crate) fn new(
        program: &Path,
        model: &Path,
        config: &Llama4Config,
        dtype: burn::tensor::DType,
        quantization: Option<Quantization>,
    ) -> Result<Self> {
        use burn::tensor::DType;
        let type_name = match (quantization.map(|quantization| quantization.weights), dtype) {
            (Some(Packing::Q8), _) => "Q8_0",
            (Some(Packing::Q4), _) => "Q4_0",
            (Some(Packing::Bf16), _) | (None, DType::BF16) => "BF16",
            (Some(Packing::F16), _) | (None, DType::F16) => "F16",
            (None, DType::F32) => "F32",
            (None, other) => bail!("llama.cpp has no type like {}", other.name()),
        };
        Ok(Self {
            program: program.to_path_buf(),
            model: model.to_path_buf(),
            parameters: config.parameter_count().total(),
            type_name,
        })
    }

    /// Whether it runs this case too.
    pub(crate) fn has(case: &Case) -> bool {
        matches!(case, Case::Prefill { .. } | Case::Decode { sequences: 1, .. })
    }

    /// One repeat of a case.
    ///
    /// # Errors
    /// When it does not run, what it says cannot be read, or its model is not ours.
    pub(crate) fn repeat(&self, case: &Case, rates: &mut Rates) -> Result<()> {
        let (prompt, generated, depth) = match *case {
            Case::Prefill { tokens } => (tokens, 0, 0),
            Case::Decode { sequences: 1, depth, tokens } => (0, tokens, depth),
            _ => bail!("llama-bench has no such case"),
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let numbers = [("-p", prompt), ("-n", generated), ("-d", depth), ("-t", threads), ("-r", 1)];
        let mut command = Command::new(&self.program);
        command.arg("-m").arg(&self.model).args(["-o", "json"]).stdin(Stdio::null());
        for (flag, number) in numbers {
            command.arg(flag).arg(number.to_string());
        }
        let name = self.program.display();
        let output = command.output().with_context(|| format!("cannot run {name}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
            bail!("{name} ended with {}: {last}", output.status);
        }
        let said: Vec<Said> =
            serde_json::from_slice(&output.stdout).with_context(|| format!("what {name} said is not its JSON"))?;
        let [said] = &said[..] else { bail!("{name} made {} tests of one case", said.len()) };
        self.check(said)?;
        let rate = said.samples_ts.first().copied().or(said.avg_ts);
        rates.rates.push(rate.with_context(|| format!("{name} gave neither samples_ts nor avg_ts"))?);
        rates.program = format!("llama.cpp {}", said.build_commit).trim_end().to_owned();
        rates.model = said.model_type.clone();
        Ok(())
    }

    /// Whether it ran the same model.
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
        Ok(())
    }
}

impl Rates {
    /// Beside our median rate; `None` where there was no repeat.
    pub(crate) fn beside(self, ours: f64) -> Option<Peer> {
        let median = quantile(&self.rates, 0.5);
        (!self.rates.is_empty()).then(|| Peer {
            program: self.program,
            model: self.model,
            median,
            ratio: ours / median,
            rates: self.rates,
        })
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use burn::tensor::DType;

    use super::*;

    /// A program that says `json` and keeps its arguments.
    fn fake(dir: &Path, json: &str) -> PathBuf {
        let program = dir.join("llama-bench");
        let script = format!("#!/bin/sh\necho \"$@\" >> {0}/arguments\ncat <<'END'\n{json}\nEND\n", dir.display());
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    fn json(parameters: u64, kind: &str) -> String {
        format!(
            r#"[{{"build_commit": "0c1e57098", "model_type": "llama4 ?B {kind}", "model_n_params": {parameters},
                "n_prompt": 0, "n_gen": 32, "n_depth": 4096, "avg_ts": 99.0, "samples_ts": [ 100.5 ], "new": {{}}}}]"#
        )
    }

    fn bench(dir: &Path, json: &str) -> LlamaBench {
        let quantization = Some(Quantization::uniform(Packing::Q4));
        let program = fake(dir, json);
        LlamaBench::new(&program, Path::new("x.gguf"), &Llama4Config::cpu(), DType::F32, quantization).unwrap()
    }

    const CASE: Case = Case::Decode { sequences: 1, depth: 4096, tokens: 32 };

    #[test]
    fn its_rates_are_read_and_compared() {
        let dir = tempfile::tempdir().unwrap();
        let bench = bench(dir.path(), &json(Llama4Config::cpu().parameter_count().total() + 32, "Q4_0"));
        let mut rates = Rates::default();
        bench.repeat(&CASE, &mut rates).unwrap();
        bench.repeat(&Case::Prefill { tokens: 512 }, &mut rates).unwrap();
        let peer = rates.beside(201.0).unwrap();
        assert_eq!((peer.rates.as_slice(), peer.ratio), (&[100.5, 100.5][..], 2.0));
        assert_eq!(peer.program, "llama.cpp 0c1e57098");
        let arguments = fs::read_to_string(dir.path().join("arguments")).unwrap();
        assert!(arguments.contains("-m x.gguf -o json -p 0 -n 32 -d 4096"), "{arguments}");
        assert!(arguments.contains("-p 512 -n 0 -d 0"), "{arguments}");
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
    }

    #[test]
    fn a_failure_is_said_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let bench = bench(dir.path(), "");
        fs::write(&bench.program, "#!/bin/sh\necho 'failed to load model' >&2\nexit 3\n").unwrap();
        let error = bench.repeat(&CASE, &mut Rates::default()).unwrap_err().to_string();
        assert!(error.contains("failed to load model") && error.contains('3'), "{error}");
        assert!(Rates::default().beside(1.0).is_none());
    }
}
