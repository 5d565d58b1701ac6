use std::path::Path;

use llama4_tests::golden::{Golden, assert_close};
use safetensors::SafeTensors;

use crate::binary::{golden, llama4, run, stderr, stdout};

const P1: &str = "p1_scout_like";

struct File(Vec<u8>);

impl File {
    fn read(path: &Path) -> Self {
        Self(std::fs::read(path).expect("the program wrote it"))
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).expect("a valid file")
    }

    fn values(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).expect("the tensor asked for");
        assert_eq!(tensor.dtype(), safetensors::Dtype::F32);
        let values = tensor.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four")));
        (tensor.shape().to_vec(), values.collect())
    }
}

fn logits(name: &str, prompt: &[u32], mode: &str) -> File {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("out.safetensors");
    std::fs::write(&file, "an older file").expect("a writable folder");
    let prompt: Vec<String> = prompt.iter().map(u32::to_string).collect();
    let arguments = format!("logits --model {} --tokens {} --hidden-states {mode}", golden(name), prompt.join(","));
    let assert = run(llama4(&arguments).arg("--output").arg(&file)).success();
    assert_eq!(stdout(assert.get_output()), "");
    assert!(stderr(assert.get_output()).contains("out.safetensors"));
    assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 1, "one file and nothing beside it");
    File::read(&file)
}

#[test]
fn logits_and_hidden_states_are_the_golden_ones() {
    for name in [P1, "p2_maverick_like", "p3_chunked"] {
        let case = Golden::open(name);
        let file = logits(name, &case.ids("prompt_ids"), "all-normalized");
        for (tensor, key) in [("logits", "logits"), ("hidden_states", "last_hidden_state")] {
            let (shape, values) = file.values(tensor);
            assert_eq!(shape, case.shape(key));
            assert_close(&format!("{name} {tensor}"), &values, case.values(key), 1e-3);
        }
    }
}

#[test]
fn hidden_states_come_as_asked() {
    let case = Golden::open(P1);
    let prompt = case.ids("prompt_ids");
    let [seq, hidden] = *case.shape("last_hidden_state") else { panic!("a matrix") };
    let all = logits(P1, &prompt, "all").values("hidden_states");
    assert_eq!(all.0, [seq, hidden]);
    let layers = logits(P1, &prompt, "selected-layers:3,0").values("hidden_states");
    assert_eq!(layers.0, [2, seq, hidden]);
    assert_close("layer 0", &layers.1[..seq * hidden], case.values("debug.layer_0.output"), 1e-3);
    assert_eq!(layers.1[seq * hidden..], all.1, "the last layer's output is the residual stream");
    for mode in ["last", "last-per-device"] {
        let last = logits(P1, &prompt, mode).values("hidden_states");
        assert_eq!(last.0, [1, hidden]);
        assert_eq!(last.1, all.1[(seq - 1) * hidden..]);
    }
    let none = logits(P1, &prompt, "none");
    assert_eq!(none.tensors().names(), ["logits"]);
}

#[test]
fn a_long_prompt_goes_through_in_pieces() {
    // Longer than what the program computes at once; what comes first does not depend on what follows.
    let case = Golden::open(P1);
    let prompt = case.ids("prompt_ids").repeat(15);
    let [seq, hidden] = *case.shape("last_hidden_state") else { panic!("a matrix") };
    let (shape, values) = logits(P1, &prompt, "none").values("logits");
    assert_eq!(shape[0], 15 * seq);
    let first = case.values("logits");
    assert_close("the first logits", &values[..first.len()], first, 1e-3);
    let all = logits(P1, &prompt, "all").values("hidden_states");
    let last = logits(P1, &prompt, "last").values("hidden_states");
    assert_eq!((all.0, last.0), (vec![15 * seq, hidden], vec![1, hidden]));
    assert_close(
        "last",
        &last.1,
        &all.1[all.1.len() - hidden..].iter().map(|v| f64::from(*v)).collect::<Vec<_>>(),
        0.0,
    );
}

#[test]
fn a_place_that_cannot_be_written_is_said_before_the_work() {
    let assert = run(&mut llama4("logits --tokens 1,2 --output /no/such/folder/x.safetensors")).code(1);
    assert!(stderr(assert.get_output()).contains("/no/such/folder"));
}
