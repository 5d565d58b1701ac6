//! Sets `cfg(demo_model)` where the demo model's weights are in the source tree, so that the program can carry them.

// A build script speaks to cargo on stdout.
#![allow(clippy::print_stdout)]

fn main() {
    let weights = "../fixtures/demo/model.safetensors";
    println!("cargo::rustc-check-cfg=cfg(demo_model)");
    println!("cargo::rerun-if-changed={weights}");
    if std::path::Path::new(weights).exists() {
        println!("cargo::rustc-cfg=demo_model");
    }
}
