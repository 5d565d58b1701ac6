//! Which implementation an operation runs: the only place that looks at which backend it is on.
//!
//! A tensor's primitive is compared with those of the backends that have kernels here. Under `Autodiff<B>` the primitive is autodiff's own, so
//! the comparison fails and the plain definition runs, as it must: that is what gets differentiated.

#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "ndarray")]
mod ndarray;

use std::cell::Cell;
use std::ops::Range;

use burn::tensor::backend::Backend;
use burn::tensor::{DType, FloatDType, Int, Tensor};

use super::{HeadSteps, InputNorm, NewHeads, OneExpert, Places, RoutedExperts};
use crate::cache::{LayerCache, Piece};
use crate::quant::PackedTensor;

/// What runs an operation on some backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveKernels {
    /// Name of the operation.
    pub operation: &'static str,
    /// `plain`, or the name of the kernel and the instructions it uses.
    pub implementation: &'static str,
}

/// Which implementation of each operation runs on `B`.
pub fn active_kernels<B: Backend>() -> Vec<ActiveKernels> {
    let rows = row_kernel::<B>().unwrap_or(PLAIN);
    let (packed, unpack) = (packed_kernel::<B>().unwrap_or(PLAIN), unpack_kernel::<B>().unwrap_or(PLAIN));
    let (whole, token) = (whole_kernel::<B>(), token_kernel::<B>());
    let many = many_rows_kernel::<B>();
    let attention = many_queries_kernel::<B>();
    [
        ("linear, few rows", rows),
        ("grouped linear, few rows a group", rows),
        ("packed linear, few rows", packed),
        ("packed linear, more rows", many.unwrap_or(unpack)),
        ("packed lookup", unpack),
        ("linear, more rows", many.unwrap_or(PLAIN)),
        ("attention", attention.unwrap_or(PLAIN)),
        ("attention of one new token a sequence", token.or(whole).unwrap_or(PLAIN)),
        ("a token through a layer of packed weights", token.unwrap_or(PLAIN)),
        ("norm, rotation, gate", token.or(whole).unwrap_or(PLAIN)),
    ]
    .map(|(operation, implementation)| ActiveKernels { operation, implementation })
    .to_vec()
}

/// Whether products with weights in blocks (`q8`, `q4`) are computed with activations that are rounded to 8 bits in blocks of 32 first, as
/// the CPU's kernels do: each product is then off by at most half a step of the activation, 1/254 of its block's largest, times the weight.
/// Where the processor multiplies two `bf16` at once, few activations with weights in `bf16` are rounded to `bf16` too, and each product is off by at
/// most 1/512 of itself.
pub fn rounds_activations<B: Backend>() -> bool {
    whole_kernel::<B>().is_some()
}

/// Run `work` with activations as they are in products on this thread, where [`rounds_activations`] says that they would be rounded: slower,
/// for comparisons.
pub fn with_exact_activations<T>(work: impl FnOnce() -> T) -> T {
    #[cfg(feature = "ndarray")]
    return super::cpu::with_exact_activations(work);
    #[cfg(not(feature = "ndarray"))]
    work()
}

thread_local! {
    static WITHOUT_KERNELS: Cell<bool> = const { Cell::new(false) };
}

/// Run `work` without kernels on this thread, by the plain definitions alone: what kernels are compared with. Not for backends that fuse
/// operations, where look-ups are kept from being fused by the same means.
pub fn with_plain_definitions<T>(work: impl FnOnce() -> T) -> T {
    /// Back to what it was, however `work` ends.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            WITHOUT_KERNELS.set(self.0);
        }
    }
    let _restore = Restore(WITHOUT_KERNELS.replace(true));
    work()
}

/// Whether a model can run in `dtype` on this device.
///
/// That the backend has such tensors is not enough: Vulkan stores and converts `bf16` on devices that cannot add two of them.
pub fn computes_in<B: Backend>(device: &B::Device, dtype: DType) -> bool {
    #[cfg(feature = "cube")]
    if !cube::has_arithmetic::<B>(device, dtype) {
        return false;
    }
    dtype.is_float() && B::supports_dtype(device, dtype)
}

/// burn's own operations.
const PLAIN: &str = "plain";

/// The first answer of the backends that have kernels in this build.
macro_rules! first {
    ($operation:ident $(::<$backend:ty>)? ($($argument:expr),*)) => {{
        $(let _ = &$argument;)*
        if WITHOUT_KERNELS.get() {
            return None;
        }
        #[cfg(feature = "ndarray")]
        if let Some(answer) = ndarray::$operation $(::<$backend>)? ($($argument),*) {
            return Some(answer);
        }
        #[cfg(feature = "cube")]
        if let Some(answer) = cube::$operation $(::<$backend>)? ($($argument),*) {
            return Some(answer);
        }
        None
    }};
}

/// The answer of burn-ndarray's kernels, if the build has them.
macro_rules! on_ndarray {
    ($operation:ident $(::<$backend:ty>)? ($($argument:expr),*)) => {{
        $(let _ = &$argument;)*
        #[cfg(feature = "ndarray")]
        let answer = if WITHOUT_KERNELS.get() { None } else { ndarray::$operation $(::<$backend>)? ($($argument),*) };
        #[cfg(not(feature = "ndarray"))]
        let answer = None;
        answer
    }};
}

/// The answer of the kernels for burn's CubeCL backends, if the build has them.
macro_rules! on_cube {
    ($operation:ident ($($argument:expr),*)) => {{
        $(let _ = &$argument;)*
        #[cfg(feature = "cube")]
        let answer = if WITHOUT_KERNELS.get() { None } else { cube::$operation($($argument),*) };
        #[cfg(not(feature = "cube"))]
        let answer = None;
        answer
    }};
}

fn row_kernel<B: Backend>() -> Option<&'static str> {
    first!(row_kernel::<B>())
}

fn packed_kernel<B: Backend>() -> Option<&'static str> {
    first!(packed_kernel::<B>())
}

fn unpack_kernel<B: Backend>() -> Option<&'static str> {
    first!(unpack_kernel::<B>())
}

/// The kernels of a backend that has one for everything.
fn whole_kernel<B: Backend>() -> Option<&'static str> {
    let _ = std::marker::PhantomData::<B>;
    on_ndarray!(row_kernel::<B>())
}

fn many_rows_kernel<B: Backend>() -> Option<&'static str> {
    let _ = std::marker::PhantomData::<B>;
    first!(many_rows_kernel::<B>())
}

fn many_queries_kernel<B: Backend>() -> Option<&'static str> {
    let _ = std::marker::PhantomData::<B>;
    first!(many_queries_kernel::<B>())
}

fn token_kernel<B: Backend>() -> Option<&'static str> {
    let _ = std::marker::PhantomData::<B>;
    first!(token_kernel::<B>())
}

pub(super) fn linear<B: Backend>(x: &Tensor<B, 2>, weight: &Tensor<B, 2>, dtype: DType) -> Option<Tensor<B, 2>> {
    first!(linear(x, weight, dtype))
}

pub(super) fn linear_f32<B: Backend>(x: &Tensor<B, 2>, weight: &Tensor<B, 2>) -> Option<Tensor<B, 2>> {
    on_cube!(linear_f32(x, weight))
}

pub(super) fn grouped_linear<B: Backend>(
    x: &Tensor<B, 2>,
    weights: &Tensor<B, 3>,
    counts: &[usize],
    dtype: DType,
) -> Option<Tensor<B, 2>> {
    first!(grouped_linear(x, weights, counts, dtype))
}

pub(super) fn packed_grouped_linear<B: Backend>(
    x: &Tensor<B, 2>,
    weights: &PackedTensor<B>,
    counts: &[usize],
    dtype: DType,
) -> Option<Tensor<B, 2>> {
    first!(packed_grouped_linear(x, weights, counts, dtype))
}

pub(super) fn routed_experts<B: Backend>(
    x: &Tensor<B, 2>,
    logits: &Tensor<B, 2>,
    groups: &[RoutedExperts<'_, B>],
    shared: &Tensor<B, 2>,
) -> Option<Tensor<B, 2>> {
    on_cube!(routed_experts(x, logits, groups, shared))
}

pub(super) fn packed_select<B: Backend>(weight: &PackedTensor<B>, ids: &Tensor<B, 1, Int>) -> Option<Tensor<B, 2>> {
    first!(packed_select(weight, ids))
}

pub(super) fn unpack_rows<B: Backend>(
    weight: &PackedTensor<B>,
    rows: Range<usize>,
    dtype: FloatDType,
) -> Option<Tensor<B, 2>> {
    first!(unpack_rows(weight, rows.clone(), dtype))
}

pub(super) fn product<B: Backend, const D: usize>(a: &Tensor<B, D>, b: &Tensor<B, D>) -> Option<Tensor<B, D>> {
    on_cube!(product(a, b))
}

pub(super) fn product_into<B: Backend, const D: usize>(
    a: &Tensor<B, D>,
    b: &Tensor<B, D>,
    dtype: DType,
) -> Option<Tensor<B, D>> {
    on_cube!(product_into(a, b, dtype))
}

pub(super) fn partial_sums<B: Backend>(x: &Tensor<B, 1>) -> Option<Tensor<B, 1>> {
    on_cube!(partial_sums(x))
}

pub(super) fn select_rows<B: Backend, const D: usize>(
    x: &Tensor<B, D>,
    ids: &Tensor<B, 1, Int>,
) -> Option<Tensor<B, D>> {
    first!(select_rows(x, ids))
}

pub(super) fn select_words<B: Backend>(x: &Tensor<B, 2, Int>, ids: &Tensor<B, 1, Int>) -> Option<Tensor<B, 2, Int>> {
    on_cube!(select_words(x, ids))
}

pub(super) fn gather_columns<B: Backend>(x: &Tensor<B, 2>, ids: &Tensor<B, 2, Int>) -> Option<Tensor<B, 2>> {
    on_cube!(gather_columns(x, ids))
}

pub(super) fn rms_norm<B: Backend>(x: &Tensor<B, 2>, weight: &Tensor<B, 1>, epsilon: f64) -> Option<Tensor<B, 2>> {
    first!(rms_norm(x, weight, epsilon))
}

pub(super) fn position_heads<B: Backend>(x: &Tensor<B, 3>, steps: &HeadSteps<B>) -> Option<Tensor<B, 3>> {
    first!(position_heads(x, steps))
}

pub(super) fn swiglu<B: Backend>(gate: &Tensor<B, 2>, up: &Tensor<B, 2>) -> Option<Tensor<B, 2>> {
    first!(swiglu(gate, up))
}

pub(super) fn swiglu_halves<B: Backend>(gate_up: &Tensor<B, 2>) -> Option<Tensor<B, 2>> {
    first!(swiglu_halves(gate_up))
}

pub(super) fn cached_attention<B: Backend>(
    queries: &Tensor<B, 3>,
    cache: &LayerCache<B>,
    pieces: &[Piece],
    scale: f64,
) -> Option<Tensor<B, 3>> {
    first!(cached_attention(queries, cache, pieces, scale))
}

pub(super) fn fresh_attention<B: Backend>(
    queries: &Tensor<B, 3>,
    keys: &Tensor<B, 3>,
    values: &Tensor<B, 3>,
    pieces: &[Piece],
    scale: f64,
) -> Option<Tensor<B, 3>> {
    first!(fresh_attention(queries, keys, values, pieces, scale))
}

pub(super) fn read_during<B: Backend, T>(x: &Tensor<B, 2>, work: impl FnOnce() -> T) -> (Vec<f32>, T) {
    #[cfg(feature = "cube")]
    return cube::read_during(x, work);
    #[cfg(not(feature = "cube"))]
    super::read::read_after(x, work)
}

pub(super) fn read_ids_during<B: Backend, T>(ids: &Tensor<B, 2, Int>, work: impl FnOnce() -> T) -> (Vec<u32>, T) {
    #[cfg(feature = "cube")]
    return cube::read_ids_during(ids, work);
    #[cfg(not(feature = "cube"))]
    super::read::read_ids_after(ids, work)
}

pub(super) fn queues<B: Backend>() -> bool {
    #[cfg(feature = "cube")]
    return cube::queues::<B>().is_some();
    #[cfg(not(feature = "cube"))]
    {
        let _ = std::marker::PhantomData::<B>;
        false
    }
}

pub(super) fn rows_at_once<B: Backend>() -> Option<usize> {
    #[cfg(feature = "cube")]
    return cube::rows_at_once::<B>();
    #[cfg(not(feature = "cube"))]
    {
        let _ = std::marker::PhantomData::<B>;
        None
    }
}

pub(super) fn submit<B: Backend>(device: &B::Device) {
    #[cfg(feature = "cube")]
    cube::submit::<B>(device);
    #[cfg(not(feature = "cube"))]
    let _ = device;
}

pub(super) fn argmax<B: Backend>(x: &Tensor<B, 2>) -> Option<Tensor<B, 2, Int>> {
    on_cube!(argmax(x))
}

pub(super) fn decode_attention<B: Backend>(
    new: &NewHeads<B>,
    steps: &HeadSteps<B>,
    cache: &mut LayerCache<B>,
    places: &Places<'_, B>,
    scale: f64,
) -> Option<Tensor<B, 3>> {
    on_cube!(decode_attention(new, steps, cache, places, scale))
}

pub(super) fn fuses_tokens<B: Backend>(weight: &PackedTensor<B>, dtype: DType) -> bool {
    let answer = || -> Option<()> { first!(fuses_tokens(weight, dtype)) };
    answer().is_some()
}

pub(super) fn normed_linears<B: Backend>(
    x: &Tensor<B, 2>,
    norm: &InputNorm<B>,
    weights: &[&PackedTensor<B>],
) -> Option<Vec<Tensor<B, 2>>> {
    first!(normed_linears(x, norm, weights))
}

pub(super) fn router_logits<B: Backend>(
    x: &Tensor<B, 2>,
    norm: &InputNorm<B>,
    weight: &Tensor<B, 2>,
) -> Option<Tensor<B, 2>> {
    on_cube!(router_logits(x, norm, weight))
}

pub(super) fn normed_swiglu<B: Backend>(
    x: &Tensor<B, 2>,
    norm: &InputNorm<B>,
    gate_up: [&PackedTensor<B>; 2],
    chosen: Option<&OneExpert<'_, B>>,
) -> Option<Tensor<B, 2>> {
    first!(normed_swiglu(x, norm, gate_up, chosen))
}

pub(super) fn add_linear<B: Backend>(
    residual: &Tensor<B, 2>,
    x: &Tensor<B, 2>,
    weight: &PackedTensor<B>,
    chosen: Option<&OneExpert<'_, B>>,
) -> Option<Tensor<B, 2>> {
    first!(add_linear(residual, x, weight, chosen))
}

/// The tensor in memory that its clones share: what a backend takes from outside may be copied with every clone.
pub(crate) fn shared<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Tensor<B, D> {
    #[cfg(feature = "ndarray")]
    return ndarray::shared(tensor);
    #[cfg(not(feature = "ndarray"))]
    tensor
}

/// Hold the words of a weight that stays in memory in large pages, where that is the host's memory and the system has such pages.
pub(crate) fn enlarge<B: Backend>(words: &Tensor<B, 2, Int>) {
    #[cfg(feature = "ndarray")]
    ndarray::enlarge(words);
    #[cfg(not(feature = "ndarray"))]
    let _ = words;
}

#[cfg(all(test, feature = "ndarray"))]
mod tests {
    use burn_ndarray::NdArray;

    use super::{PLAIN, active_kernels, rounds_activations, with_plain_definitions};

    fn all_plain() -> bool {
        active_kernels::<NdArray>().iter().all(|active| active.implementation == PLAIN)
    }

    #[test]
    fn plain_definitions_run_without_kernels_and_no_longer_than_asked() {
        assert!(!all_plain() && rounds_activations::<NdArray>());
        assert!(with_plain_definitions(|| with_plain_definitions(all_plain) && all_plain()));
        assert!(!with_plain_definitions(rounds_activations::<NdArray>));
        let panicked = std::panic::catch_unwind(|| with_plain_definitions(|| panic!("on purpose")));
        assert!(panicked.is_err() && !all_plain());
    }
}
