//! Whether a backend can be tested on this machine.

use std::any::TypeId;
use std::collections::HashMap;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use burn::tensor::DType;
use burn::tensor::backend::Backend;
use llama4::ops::computes_in;

/// Set where tests that need an adapter must not be skipped.
pub const REQUIRED: &str = "LLAMA4_REQUIRE_ADAPTER";

/// Whether the backend's default device starts; a test that asks for it and is refused says so on stderr, past the test runner's capture.
///
/// # Panics
/// If it does not start and [`REQUIRED`] is set.
pub fn ready<B: Backend>(test: &str) -> bool {
    static STARTED: Mutex<Option<HashMap<TypeId, bool>>> = Mutex::new(None);
    let mut started = STARTED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let ready = *started.get_or_insert_default().entry(TypeId::of::<B>()).or_insert_with(|| {
        catch_unwind(AssertUnwindSafe(|| B::supports_dtype(&B::Device::default(), DType::F32))).unwrap_or(false)
    });
    if !ready {
        assert!(std::env::var_os(REQUIRED).is_none(), "{test}: no adapter, and {REQUIRED} is set");
        skip(test, "no adapter");
    }
    ready
}

/// Whether the backend has tensors of this type; says so where a test goes without.
pub fn has<B: Backend>(dtype: DType, test: &str) -> bool {
    let has = computes_in::<B>(&B::Device::default(), dtype);
    if !has {
        skip(test, &format!("no {}", dtype.name()));
    }
    has
}

fn skip(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}
