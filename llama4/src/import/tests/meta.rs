//! Meta's ranks, made of a golden's tensors.

use std::collections::HashMap;
use std::fs;

use serde_json::{Value, json};

use super::files::{Checkpoint as Written, Pickled, RawTensor, flip_bytes, pytorch_file, pytorch_file_with};
use super::packed::{load_packed, weights};
use super::*;
use crate::Llama4Config;
use crate::import::{Checkpoint, ConvertOptions, WeightsForm};
use crate::quant::Quantization;

const QKV: &str = "layers.0.attention.wqkv.weight";
const GOLDENS: [&str; 2] = ["p1_scout_like", "p2_maverick_like"];

/// A golden as Meta would write it.
struct Meta {
    folder: Written,
    params: Value,
    ranks: Vec<Vec<Pickled>>,
}

impl Meta {
    fn of(name: &str, count: usize) -> Self {
        let folder = Written::of(name);
        fs::remove_file(folder.file("config.json")).unwrap();
        let ranks = (0..count).map(|rank| Parting::of(&folder.tensors, rank, count)).collect();
        Self { folder, params: params(name), ranks }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn tensor(&mut self, rank: usize, name: &str) -> &mut Pickled {
        self.ranks[rank].iter_mut().find(|pickled| pickled.tensor.name == name).unwrap()
    }

    fn written(self) -> Self {
        fs::write(self.folder.file("params.json"), self.params.to_string()).unwrap();
        for (rank, tensors) in self.ranks.iter().enumerate() {
            let file = self.folder.file(&format!("consolidated.{rank:02}.pth"));
            fs::write(file, pytorch_file_with(tensors, add_buffers)).unwrap();
        }
        self
    }
}

/// Beside the tensors: buffers of bytes, as protocol 2 writes them and as later ones do.
fn add_buffers(pickle: &mut Vec<u8>) {
    assert_eq!(pickle.split_off(pickle.len() - 2), b"u.");
    let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let encoded = [b"c_codecs\nencode\n".to_vec(), text("\u{80}\u{2}}"), text("latin1"), b"\x86R".to_vec()].concat();
    for (name, bytes) in [("attention.wqkv", encoded), ("attention.wo", b"C\x04\x80\x02}q".to_vec())] {
        pickle.extend(text(&format!("layers.0.{name}._extra_state")));
        pickle.extend([b"c_io\nBytesIO\n)\x81", &*bytes, b"K\x00N\x87b"].concat());
    }
    pickle.extend(b"u.");
}

/// What Meta's params.json would say of a golden.
fn params(name: &str) -> Value {
    let mut params = json!({
        "dim": 64, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 512,
        "ffn_exp": 4.0, "multiple_of": 16, "norm_eps": 1e-5, "rope_theta": 500000.0, "use_scaled_rope": false,
        "nope_layer_interval": 4, "attention_chunk_size": 8192,
    });
    let moe = |experts: usize, capacity: f64, step: usize| {
        json!({ "num_experts": experts, "capacity_factor": capacity, "auto_scale_F": true, "top_k": 1,
            "interleave_moe_layer_step": step })
    };
    let (multiplier, qk_norm, moe) = match name {
        "p1_scout_like" => (0.57, true, moe(4, 1.0, 1)),
        _ => (0.475, false, moe(8, 1.5, 2)),
    };
    params["ffn_dim_multiplier"] = json!(multiplier);
    params["use_qk_norm"] = json!(qk_norm);
    params["moe_args"] = moe;
    params
}

/// Parts Hugging Face's tensors among ranks.
struct Parting<'a> {
    source: HashMap<&'a str, &'a RawTensor>,
    rank: usize,
    ranks: usize,
    out: Vec<Pickled>,
}

impl Parting<'_> {
    fn of(source: &[RawTensor], rank: usize, ranks: usize) -> Vec<Pickled> {
        let source: HashMap<&str, &RawTensor> = source.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let mut parting = Parting { source, rank, ranks, out: Vec::new() };
        parting.rows("tok_embeddings.weight", &["model.embed_tokens.weight"]);
        parting.rows("output.weight", &["lm_head.weight"]);
        parting.copy("norm.weight", "model.norm.weight");
        for layer in 0..4 {
            let name = |name: &str| format!("layers.{layer}.{name}");
            let hf = |name: &str| format!("model.layers.{layer}.{name}");
            let hf_all = |names: [&str; 3]| names.map(hf);
            parting.copy(&name("attention.wqkv.layer_norm_weight"), &hf("input_layernorm.weight"));
            let qkv = hf_all(["self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"]);
            parting.rows(&name("attention.wqkv.weight"), &qkv);
            parting.columns(&name("attention.wo.weight"), &hf("self_attn.o_proj.weight"));
            let norm = hf("post_attention_layernorm.weight");
            if parting.source.contains_key(&*hf("feed_forward.router.weight")) {
                parting.copy(&name("feed_forward.norm.weight"), &norm);
                parting.router(&name("feed_forward.router_DE"), &hf("feed_forward.router.weight"));
                parting.experts(&name("feed_forward.experts."), &hf("feed_forward.experts."));
                let shared = |name: &str| hf(&format!("feed_forward.shared_expert.{name}_proj.weight"));
                parting.rows(&name("feed_forward.w_in_shared_FD.weight"), &[shared("gate")]);
                parting.rows(&name("feed_forward.w_swiglu_FD.weight"), &[shared("up")]);
                parting.columns(&name("feed_forward.w_out_shared_DF.weight"), &shared("down"));
                for unused in ["global_gate_stats_3E", "running_gate_stats_3E", "expert_activation_DE"] {
                    parting
                        .out
                        .push(RawTensor::new(&name(&format!("feed_forward.{unused}")), "F32", &[3, 4], 4).into());
                }
            } else {
                parting.copy(&name("feed_forward.mlp.layer_norm_weight"), &norm);
                let gate_up = ["gate_proj", "up_proj"].map(|name| hf(&format!("feed_forward.{name}.weight")));
                parting.rows(&name("feed_forward.mlp.fc1_weight"), &gate_up);
                parting.columns(&name("feed_forward.mlp.fc2_weight"), &hf("feed_forward.down_proj.weight"));
            }
        }
        parting.out.push(RawTensor::new("rope.freqs", "F32", &[8], 4).into());
        parting.out.push(RawTensor::new("vision_embeddings.vision_encoder.ln_pre.weight", "BF16", &[8], 2).into());
        // Nobody looks at what is skipped, not even at the order of its values.
        let mut turned = Pickled::from(RawTensor::new("vision_projection.weight", "BF16", &[8, 2], 2));
        turned.strides = vec![1, 8];
        parting.out.push(turned);
        parting.out
    }

    /// A matrix with the elements of `from` that `element` gives for each row and column.
    fn put(&mut self, name: &str, from: &RawTensor, shape: [usize; 2], element: impl Fn(usize, usize) -> usize) {
        let width = from.bytes.len() / from.shape.iter().product::<usize>();
        let mut bytes = Vec::new();
        for (row, column) in (0..shape[0]).flat_map(|row| (0..shape[1]).map(move |column| (row, column))) {
            let start = element(row, column) * width;
            bytes.extend(&from.bytes[start..start + width]);
        }
        let (name, dtype, shape) = (name.to_string(), from.dtype.clone(), shape.to_vec());
        self.out.push(RawTensor { name, dtype, shape, bytes }.into());
    }

    fn copy(&mut self, name: &str, from: &str) {
        self.out.push(RawTensor { name: name.to_string(), ..self.source[from].clone() }.into());
    }

    /// This rank's rows of each, one below the other.
    fn rows(&mut self, name: &str, from: &[impl AsRef<str>]) {
        let mut joined = RawTensor { name: name.to_string(), ..self.source[from[0].as_ref()].clone() };
        joined.bytes.clear();
        joined.shape[0] = 0;
        for from in from {
            let from = self.source[from.as_ref()];
            let part = from.bytes.len() / self.ranks;
            joined.bytes.extend(&from.bytes[self.rank * part..(self.rank + 1) * part]);
            joined.shape[0] += from.shape[0] / self.ranks;
        }
        self.out.push(joined.into());
    }

    fn columns(&mut self, name: &str, from: &str) {
        let from = self.source[from];
        let (height, width) = (from.shape[0], from.shape[1]);
        let part = width / self.ranks;
        let first = self.rank * part;
        self.put(name, from, [height, part], |row, column| row * width + first + column);
    }

    fn router(&mut self, name: &str, from: &str) {
        let from = self.source[from];
        let (experts, hidden) = (from.shape[0], from.shape[1]);
        self.put(name, from, [hidden, experts], |row, column| column * hidden + row);
    }

    /// Hugging Face has `[experts, in, out]`, the halves of `gate_up_proj` side by side.
    fn experts(&mut self, name: &str, from: &str) {
        let (gate_up, down) = (self.source[&*format!("{from}gate_up_proj")], self.source[&*format!("{from}down_proj")]);
        let (experts, width, hidden) = (down.shape[0], down.shape[1], down.shape[2]);
        let part = width / self.ranks;
        let first = self.rank * part;
        for (parameter, half) in [("moe_w_in_eD_F", 0), ("moe_w_swiglu_eD_F", width)] {
            let element = |row: usize, column: usize| row * 2 * width + half + first + column;
            self.put(&format!("{name}{parameter}"), gate_up, [experts * hidden, part], element);
        }
        let element = |row: usize, column: usize| {
            let (expert, row) = (row / part, row % part);
            (expert * width + first + row) * hidden + column
        };
        self.put(&format!("{name}moe_w_out_eF_D"), down, [experts * part, hidden], element);
    }
}

#[test]
fn any_number_of_ranks_gives_the_same_bits_as_safetensors() {
    for name in GOLDENS {
        let plain = load(golden(name)).unwrap();
        for count in [1, 2, 8] {
            let meta = Meta::of(name, count).written();
            let Loaded { model, report } = load(meta.path()).unwrap();
            assert_eq!(report.form, WeightsForm::MetaRanks);
            assert_eq!(
                (report.skipped_vision, report.bytes, &report.dtypes),
                (2, plain.report.bytes, &plain.report.dtypes)
            );
            assert_same(&model, &plain.model);
            assert!(report.to_string().contains("of Meta's ranks in"), "{report}");
        }
    }
}

#[test]
fn ranks_are_packed_and_converted_as_the_whole_is() {
    for name in GOLDENS {
        let meta = Meta::of(name, 2).written();
        let packed = load_packed(meta.path(), Quantization::q4()).model;
        let direct = load_packed(golden(name), Quantization::q4()).model;
        assert_same(&packed, &direct);
        assert_eq!(weights(packed), weights(direct));

        let folder = meta.folder.file("converted");
        let opened = Checkpoint::open(meta.path()).unwrap();
        opened.convert(&ConvertOptions::default(), &folder, |_| ControlFlow::Continue(())).unwrap();
        assert_same(&load(folder.as_path()).unwrap().model, &load(golden(name)).unwrap().model);
        assert_eq!(Checkpoint::open(folder.as_path()).unwrap().config().rms_norm_eps, opened.config().rms_norm_eps);
    }
}

#[test]
fn params_say_what_hugging_faces_configuration_says() {
    for name in GOLDENS {
        // The goldens' own tokens and length are nowhere in params.json, and Llama 4's tokens are beyond their vocabulary.
        let expected = Llama4Config {
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            pad_token_id: None,
            max_position_embeddings: 1_048_576,
            ..Checkpoint::open(golden(name)).unwrap().config().clone()
        };
        let mut meta = Meta::of(name, 2);
        assert_eq!(Checkpoint::open(Meta::of(name, 2).written().path()).unwrap().config(), &expected);
        // Under a key of their own, and with the embedding alone to tell how many words there are.
        for vocab_size in [json!(-1), Value::Null] {
            meta.params["vocab_size"] = vocab_size;
            let nested = json!({ "model": meta.params.clone() });
            let outer = std::mem::replace(&mut meta.params, nested);
            meta = meta.written();
            assert_eq!(Checkpoint::open(meta.path()).unwrap().config(), &expected);
            meta.params = outer;
        }
    }
}

#[test]
fn a_configuration_of_hugging_face_and_weights_of_its_names_come_first() {
    let meta = Meta::of("p1_scout_like", 2).written();
    fs::copy(golden("p1_scout_like").join("config.json"), meta.folder.file("config.json")).unwrap();
    fs::write(meta.folder.file("params.json"), "not JSON").unwrap();
    let opened = Checkpoint::open(meta.path()).unwrap();
    assert_eq!((opened.form(), opened.config().bos_token_id), (WeightsForm::MetaRanks, Some(1)));
    assert_same(&load(meta.path()).unwrap().model, &load(golden("p1_scout_like")).unwrap().model);

    fs::copy(golden("p1_scout_like").join("model.safetensors"), meta.folder.file("model.safetensors")).unwrap();
    assert_eq!(Checkpoint::open(meta.path()).unwrap().form(), WeightsForm::Safetensors);
    fs::remove_file(meta.folder.file("config.json")).unwrap();
    assert!(error_of(meta.path()).contains("no config.json"));
}

/// The error of a golden as two ranks, after a change.
#[track_caller]
fn assert_refused(change: impl FnOnce(&mut Meta), parts: &[&str]) {
    let mut meta = Meta::of("p2_maverick_like", 2);
    change(&mut meta);
    let error = error_of(meta.written().path());
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn a_rank_that_is_not_there_is_named() {
    let remove = |count: usize, rank: usize| {
        let meta = Meta::of("p1_scout_like", count).written();
        fs::remove_file(meta.folder.file(&format!("consolidated.{rank:02}.pth"))).unwrap();
        error_of(meta.path())
    };
    let error = remove(8, 3);
    assert!(error.contains("consolidated.03.pth: it is not there, but consolidated.07.pth is"), "{error}");
    // Nothing tells of the last one but the widths.
    let error = remove(8, 7);
    assert!(error.contains("7 ranks cannot share the model's 512 words; are the files of all ranks there?"), "{error}");
    let error = remove(2, 1);
    assert!(error.contains("tok_embeddings.weight: expected shape [512, 64]"), "{error}");
    assert!(error.contains("consolidated.00.pth has [256, 64]"), "{error}");
}

#[test]
fn ranks_that_disagree_are_refused_by_rank_and_tensor() {
    let without = |rank: usize, name: &'static str| {
        move |meta: &mut Meta| meta.ranks[rank].retain(|pickled| pickled.tensor.name != name)
    };
    assert_refused(without(1, QKV), &["consolidated.01.pth are not this model's: 1 parameter is missing", QKV]);
    assert_refused(without(0, QKV), &["consolidated.00.pth are not this model's: 1 parameter is missing", QKV]);
    let rename = |meta: &mut Meta| meta.tensor(1, QKV).tensor.name = "layers.0.attention.wq.weight".to_string();
    assert_refused(
        rename,
        &["consolidated.01.pth", "missing", QKV, "1 tensor has no place in it (layers.0.attention.wq.weight)"],
    );
    let narrower = |meta: &mut Meta| {
        let pickled = meta.tensor(1, QKV);
        pickled.tensor.shape = vec![128, 32];
        *pickled = pickled.tensor.clone().into();
    };
    assert_refused(narrower, &[QKV, "expected shape [64, 64]", "consolidated.01.pth has [128, 32]"]);
    let half = |meta: &mut Meta| {
        let tensor = &mut meta.tensor(1, "norm.weight").tensor;
        *tensor = RawTensor::new("norm.weight", "F16", &[64], 2);
    };
    assert_refused(half, &["consolidated.01.pth is damaged: norm.weight is F16, but F32 in", "consolidated.00.pth"]);
}

#[test]
fn the_checks_of_all_ranks_are_those_of_safetensors() {
    let everywhere = |change: fn(&mut Vec<Pickled>)| move |meta: &mut Meta| meta.ranks.iter_mut().for_each(change);
    let lost = |tensors: &mut Vec<Pickled>| tensors.retain(|pickled| pickled.tensor.name != "output.weight");
    assert_refused(everywhere(lost), &["1 parameter is missing (output.weight)"]);
    let more = |tensors: &mut Vec<Pickled>| tensors.push(RawTensor::new("layers.9.x", "F32", &[1], 4).into());
    assert_refused(everywhere(more), &["1 tensor has no place in it (layers.9.x)"]);
    let whole_numbers = |tensors: &mut Vec<Pickled>| {
        let norm = tensors.iter_mut().find(|pickled| pickled.tensor.name == "norm.weight").unwrap();
        norm.tensor.dtype = "I32".to_string();
    };
    assert_refused(
        everywhere(whole_numbers),
        &["norm.weight", "consolidated.00.pth has I32", "not supported", "1 more"],
    );
    let twice = |tensors: &mut Vec<Pickled>| tensors.push(RawTensor::new("norm.weight", "F32", &[64], 4).into());
    assert_refused(everywhere(twice), &["norm.weight is there twice", "consolidated.00.pth"]);
    let turned = |tensors: &mut Vec<Pickled>| {
        tensors.iter_mut().find(|pickled| pickled.tensor.name == "output.weight").unwrap().strides = vec![1, 256];
    };
    assert_refused(everywhere(turned), &["consolidated.00.pth", "output.weight", "not in order"]);
}

#[test]
fn weights_in_eight_bits_are_refused_by_name() {
    let meta = Meta::of("p1_scout_like", 1).written();
    fs::write(meta.folder.file("fp8_scales_0.pt"), "").unwrap();
    let error = error_of(meta.path());
    for part in ["fp8_scales_0.pt", "Meta's own layout", "Hugging Face's FP8"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_rank_that_calls_code_runs_none() {
    let meta = Meta::of("p1_scout_like", 2).written();
    let witness = meta.folder.file("ran");
    let command = format!("touch {}", witness.display());
    let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let call = [b"cos\nsystem\n(".to_vec(), text(&command), b"tR".to_vec()].concat();
    // Beside the tensors it is a value like any other that is none.
    let beside = |pickle: &mut Vec<u8>| {
        add_buffers(pickle);
        let end = pickle.split_off(pickle.len() - 2);
        pickle.extend([text("layers.0.attention._extra_state"), call.clone(), end].concat());
    };
    fs::write(meta.folder.file("consolidated.01.pth"), pytorch_file_with(&meta.ranks[1], beside)).unwrap();
    assert_same(&load(meta.path()).unwrap().model, &load(golden("p1_scout_like")).unwrap().model);
    // In a tensor's place it leaves the tensor missing, and in the dictionary's place there is nothing.
    let instead = |pickle: &mut Vec<u8>| {
        let end = pickle.split_off(pickle.len() - 2);
        pickle.extend([text(QKV), call.clone(), end].concat());
    };
    let others: Vec<Pickled> = Meta::of("p1_scout_like", 2).ranks.remove(1);
    let others: Vec<Pickled> = others.into_iter().filter(|pickled| pickled.tensor.name != QKV).collect();
    fs::write(meta.folder.file("consolidated.01.pth"), pytorch_file_with(&others, instead)).unwrap();
    assert!(error_of(meta.path()).contains("1 parameter is missing (layers.0.attention.wqkv.weight)"));
    let alone = |pickle: &mut Vec<u8>| *pickle = [b"\x80\x02".to_vec(), call.clone(), b".".to_vec()].concat();
    fs::write(meta.folder.file("consolidated.01.pth"), pytorch_file_with(&[], alone)).unwrap();
    let error = error_of(meta.path());
    assert!(error.contains("consolidated.01.pth is damaged") && error.contains("not a dictionary"), "{error}");
    assert!(!witness.exists());
}

#[test]
fn params_that_say_nonsense_are_refused_by_key_and_file() {
    let set = |key: &'static str, value: Value| move |meta: &mut Meta| meta.params[key] = value;
    for (key, value, part) in [
        ("dim", json!("64"), "`dim` is \"64\", but a whole number is wanted"),
        ("dim", Value::Null, "`dim` is missing"),
        ("n_heads", json!(0), "`n_heads` is 0, but it must be 1 to"),
        ("n_heads", json!(7), "`n_kv_heads` is 2, but `n_heads` must be a multiple of it, and is 7"),
        ("n_heads", json!(6), "`n_heads` is 6, but `dim` must be a multiple of it, and is 64"),
        ("n_layers", json!(-1), "`n_layers` is -1"),
        ("n_layers", json!(100_000), "100000"),
        ("vocab_size", json!(-2), "`vocab_size` is -2"),
        ("norm_eps", json!(0.0), "`norm_eps` is 0, but it must be finite and above 0"),
        ("rope_theta", json!([1]), "`rope_theta` is [1], but a number is wanted"),
        ("use_qk_norm", json!("yes"), "`use_qk_norm` is \"yes\""),
        ("multiple_of", json!(0), "`multiple_of` is 0"),
        ("ffn_dim_multiplier", json!(1e12), "`dim` is 64, but with `ffn_exp` 4"),
        ("attention_chunk_size", json!(0.5), "`attention_chunk_size` is 0.5"),
        ("moe_args", json!({}), "`moe_args.num_experts` is missing"),
        ("moe_args", json!({ "num_experts": 4, "top_k": 5 }), "`moe_args.top_k` is 5, but there are only 4 experts"),
        (
            "moe_args",
            json!({ "num_experts": 4, "interleave_moe_layer_step": 0 }),
            "`moe_args.interleave_moe_layer_step` is 0",
        ),
        ("moe_args", json!(16), "`moe_args` is 16, but an object is wanted"),
        (
            "quantization_args",
            json!({ "scheme": "int4" }),
            "`quantization_args.scheme` is \"int4\", which is not supported",
        ),
        ("lora_args", json!({ "rank": 16 }), "`lora_args` is {\"rank\":16}, which is not supported"),
    ] {
        assert_refused(set(key, value), &["params.json", part]);
    }
    assert_refused(|meta| meta.params = json!([]), &["params.json", "not a JSON object"]);

    let meta = Meta::of("p1_scout_like", 1).written();
    fs::remove_file(meta.folder.file("params.json")).unwrap();
    let error = error_of(meta.path());
    assert!(error.contains("cannot read") && error.contains("params.json"), "{error}");
    let mut meta = Meta::of("p1_scout_like", 1);
    meta.params["vocab_size"] = json!(-1);
    meta.ranks[0].retain(|pickled| pickled.tensor.name != "tok_embeddings.weight");
    let error = error_of(meta.written().path());
    assert!(error.contains("consolidated.00.pth is damaged: it has no tok_embeddings.weight"), "{error}");
}

#[test]
fn keys_that_nobody_knows_are_passed_over() {
    let mut meta = Meta::of("p1_scout_like", 1);
    meta.params["vision_args"] = json!({ "dim": 1408 });
    meta.params["max_seq_len"] = json!(2048);
    meta.params["quantization_args"] = json!({ "scheme": null });
    meta.params["something_new"] = json!(["a"]);
    assert!(load(meta.written().path()).is_ok());
}

#[test]
fn damaged_ranks_are_errors() {
    let meta = Meta::of("p1_scout_like", 2).written();
    let file = meta.folder.file("consolidated.01.pth");
    let whole = fs::read(&file).unwrap();
    for len in [0, 1, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..len]).unwrap();
        let error = error_of(meta.path());
        assert!(error.contains("consolidated.01.pth is damaged"), "{len}: {error}");
    }
    fs::write(&file, pytorch_file(&[])).unwrap();
    assert!(error_of(meta.path()).contains("consolidated.01.pth are not this model's: 47 parameters are missing"));
}

#[test]
fn no_flipped_byte_of_a_rank_gets_past_the_checks_into_a_panic() {
    let meta = Meta::of("p2_maverick_like", 2).written();
    let len = fs::metadata(meta.folder.file("consolidated.01.pth")).unwrap().len() as usize;
    flip_bytes(&meta.folder, "consolidated.01.pth", (0..1500).chain(len - 800..len));
}
