//! That a backend with kernels of this project runs them, whatever stands between it and them (burn's fusion).

use std::cell::Cell;
use std::fmt::Debug;
use std::sync::Once;

use burn::module::Param;
use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Int, Tensor, TensorData};
use llama4::cache::Piece;
use llama4::ops::{self, HeadSteps, RoutedExperts, active_kernels};
use llama4::quant::{PackedData, PackedTensor, Packing, Weight};
use tracing::field::Field;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::properties::{host, random};

thread_local! {
    /// Kernels that this thread ran.
    static RAN: Cell<usize> = const { Cell::new(0) };
}

/// Counts what the library says when a kernel runs instead of a plain definition.
struct Kernels;

impl Subscriber for Kernels {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "llama4::kernels"
    }

    fn event(&self, event: &Event<'_>) {
        let mut words = String::new();
        event.record(&mut |field: &Field, value: &dyn Debug| words += &format!("{field}: {value:?}; "));
        assert_eq!(*event.metadata().level(), tracing::Level::TRACE, "{words}");
        RAN.set(RAN.get() + 1);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Kernels that run during `work`, which stays on this thread.
///
/// The subscriber is the process's: one of the thread's own may come too late, when another thread has passed by where nobody listened.
fn count<T>(work: impl FnOnce() -> T) -> usize {
    static LISTEN: Once = Once::new();
    LISTEN.call_once(|| tracing::subscriber::set_global_default(Kernels).expect("nobody else listens"));
    let before = RAN.get();
    work();
    RAN.get() - before
}

/// Every operation that is said to have a kernel runs it, in the middle of operations that burn may fuse.
pub fn kernels_are_what_runs<B: Backend>() {
    let device = B::Device::default();
    for kernel in active_kernels::<B>() {
        assert!(kernel.implementation.starts_with("CubeCL"), "{kernel:?}");
    }
    let x = |rows: usize| random::<B, 2>([rows, 64], 1) * 0.5 + 1.0;
    let weight = random::<B, 2>([10, 64], 2) * 2.0;
    let stacked = random::<B, 3>([3, 10, 64], 3);
    let packed = PackedData::pack(Packing::Q4, 64, &host(&random::<B, 2>([30, 64], 4))).expect("finite values");
    let packed = PackedTensor::<B>::from_data(packed, &device);
    let ids = Tensor::<B, 1, Int>::from_data(TensorData::new(vec![4, 0, 29], [3]), &device);
    // What comes after is computed from the result, so that fusion cannot leave it out.
    let sum = |y: Tensor<B, 2>| host(&(y * 2.0).sum());
    assert_eq!(count(|| sum(ops::linear(x(2), weight.clone()))), 1);
    assert_eq!(count(|| sum(ops::grouped_linear(x(3), stacked.clone(), &[1, 0, 2]))), 1, "all groups at once");
    assert_eq!(count(|| sum(ops::packed_grouped_linear(x(3), &packed, &[2, 1, 0]))), 1, "all groups at once");
    assert_eq!(count(|| sum(ops::packed_linear(x(40), &packed))), 1);
    let heads = |tokens: usize, heads: usize| random::<B, 3>([tokens, heads, 32], 7);
    let pieces = [Piece { row: 0, offset: 0, len: 9, first_slot: 0 }];
    let attention = || ops::fresh_attention(&heads(9, 4), &heads(9, 2), &heads(9, 2), &pieces, 0.2);
    assert_eq!(count(|| sum(attention().reshape([9, 128]))), 1);
    assert_eq!(count(|| sum(ops::packed_select(&packed, ids))), 1);
    assert_eq!(count(|| sum(ops::unpack_rows(&packed, 3..9, FloatDType::F32))), 1);
    let gamma = random::<B, 1>([64], 6);
    assert_eq!(count(|| sum(ops::rms_norm(x(3), gamma.clone(), 1e-5))), 1);
    assert_eq!(count(|| sum(ops::swiglu(x(3), x(3)))), 1);
    assert_eq!(count(|| sum(ops::swiglu_halves(x(3)))), 1);
    let steps = HeadSteps { norm: Some(1e-5), ..HeadSteps::default() };
    assert_eq!(count(|| sum(ops::position_heads(x(3).reshape([3, 4, 16]), &steps).reshape([3, 64]))), 1);
    assert_eq!(count(|| ops::argmax(x(3)).into_data()), 1);
    let weight = |rows: usize| Weight::Float(Param::from_tensor(random::<B, 3>([3, rows, 128], 8)));
    let (gate_up, down) = (weight(256), weight(128));
    let groups = [RoutedExperts { experts: 0..3, gate_up: &gate_up, down: &down }];
    let [x, logits] = [random::<B, 2>([5, 128], 9), random::<B, 2>([5, 3], 10)];
    let routed = || ops::routed_experts(&x, &logits, &groups, &x).expect("kernels for whole vectors");
    assert_eq!(count(|| sum(routed())), 6, "sorting, rows in order, two products with a gate in between, sum");
    let values = random::<B, 1>([4096 * 300], 5);
    let expected: f64 = host(&values).iter().map(|value| f64::from(*value)).sum();
    let found: f64 = host(&ops::partial_sums(values)).iter().map(|sum| f64::from(*sum)).sum();
    assert!((found - expected).abs() < 0.1, "{found} for {expected}");
}
