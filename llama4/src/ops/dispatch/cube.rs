//! Tensors of burn's CubeCL backends, on every runtime of the build, fused or not.

use std::any::Any;
use std::ops::Range;

use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensorOps, IntTensorOps};
use burn::tensor::{DType, FloatDType, Int, Tensor};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeRuntime};
#[cfg(feature = "cuda")]
use cubecl::cuda::CudaRuntime;
use cubecl::features::TypeUsage;
#[cfg(feature = "wgpu")]
use cubecl::wgpu::WgpuRuntime;

use crate::cache::{LayerCache, Piece};
use crate::ops::RoutedExperts;
use crate::ops::cube::{self, Door, ExpertGroup, PackedRows, Rows, Weights};
use crate::quant::{PackedTensor, Weight};

/// The first answer of the runtimes that the build has.
macro_rules! on_runtimes {
    ($operation:ident::<$backend:ty $(, $dimension:tt)?>($($argument:expr),*)) => {{
        #[cfg(feature = "cuda")]
        if let Some(answer) = $operation::<$backend, CudaRuntime $(, $dimension)?>($($argument),*) {
            return Some(answer);
        }
        #[cfg(feature = "wgpu")]
        if let Some(answer) = $operation::<$backend, WgpuRuntime $(, $dimension)?>($($argument),*) {
            return Some(answer);
        }
        None
    }};
}

mod token;

pub(super) use token::{
    add_linear, argmax, decode_attention, fuses_tokens, normed_linears, normed_swiglu, position_heads, rms_norm,
    router_logits, swiglu, swiglu_halves,
};

pub(super) fn row_kernel<B: Backend>() -> Option<&'static str> {
    on_runtimes!(name_on::<B>("CubeCL row product"))
}

pub(super) fn packed_kernel<B: Backend>() -> Option<&'static str> {
    on_runtimes!(name_on::<B>("CubeCL row product, unpacked in registers"))
}

pub(super) fn unpack_kernel<B: Backend>() -> Option<&'static str> {
    on_runtimes!(name_on::<B>("CubeCL unpacking"))
}

pub(super) fn token_kernel<B: Backend>() -> Option<&'static str> {
    on_runtimes!(name_on::<B>("CubeCL, where the device has what it takes"))
}

pub(super) fn many_rows_kernel<B: Backend>() -> Option<&'static str> {
    on_runtimes!(name_on::<B>("CubeCL, unpacked on the way, 16-bit floats on tensor cores where the device has some"))
}

pub(super) fn many_queries_kernel<B: Backend>() -> Option<&'static str> {
    on_runtimes!(name_on::<B>("CubeCL, 16-bit floats on tensor cores on CUDA"))
}

/// Whether a device of these runtimes calculates with values of this type; true of any other device.
pub(super) fn has_arithmetic<B: Backend>(device: &B::Device, dtype: DType) -> bool {
    let device: &dyn Any = device;
    #[cfg(feature = "cuda")]
    if let Some(device) = device.downcast_ref() {
        return calculates::<CudaRuntime>(device, dtype);
    }
    #[cfg(feature = "wgpu")]
    if let Some(device) = device.downcast_ref() {
        return calculates::<WgpuRuntime>(device, dtype);
    }
    true
}

fn calculates<R: CubeRuntime>(device: &R::Device, dtype: DType) -> bool {
    R::client(device).properties().type_usage(dtype.into()).contains(TypeUsage::Arithmetic)
}

fn name_on<B: Backend, R: CubeRuntime>(name: &'static str) -> Option<&'static str> {
    cube::is_cube::<R, B::FloatTensorPrimitive>().then_some(name)
}

pub(super) fn linear<B: Backend>(x: &Tensor<B, 2>, weight: &Tensor<B, 2>, dtype: DType) -> Option<Tensor<B, 2>> {
    let counts = [x.dims()[0]];
    on_runtimes!(grouped_linear_on::<B, 2>(x, weight, &counts, dtype))
}

pub(super) fn linear_f32<B: Backend>(x: &Tensor<B, 2>, weight: &Tensor<B, 2>) -> Option<Tensor<B, 2>> {
    on_runtimes!(linear_f32_on::<B>(x, weight))
}

fn linear_f32_on<B: Backend, R: CubeRuntime>(x: &Tensor<B, 2>, weight: &Tensor<B, 2>) -> Option<Tensor<B, 2>> {
    let ((x, door), (weight, _)) = (cube::float::<B, R, 2>(x)?, cube::float::<B, R, 2>(weight)?);
    cube::wrap(&door, cube::thin_product(&x, &weight)?)
}

pub(super) fn grouped_linear<B: Backend>(
    x: &Tensor<B, 2>,
    weights: &Tensor<B, 3>,
    counts: &[usize],
    dtype: DType,
) -> Option<Tensor<B, 2>> {
    on_runtimes!(grouped_linear_on::<B, 3>(x, weights, counts, dtype))
}

fn grouped_linear_on<B: Backend, R: CubeRuntime, const D: usize>(
    x: &Tensor<B, 2>,
    weights: &Tensor<B, D>,
    counts: &[usize],
    dtype: DType,
) -> Option<Tensor<B, 2>> {
    let (weights, _) = cube::float::<B, R, D>(weights)?;
    let (x, door) = cube::float::<B, R, 2>(x)?;
    cube::wrap(&door, cube::grouped_product(&x, &Weights::Float(&weights), counts, dtype)?)
}

pub(super) fn packed_grouped_linear<B: Backend>(
    x: &Tensor<B, 2>,
    weights: &PackedTensor<B>,
    counts: &[usize],
    dtype: DType,
) -> Option<Tensor<B, 2>> {
    on_runtimes!(packed_grouped_linear_on::<B>(x, weights, counts, dtype))
}

fn packed_grouped_linear_on<B: Backend, R: CubeRuntime>(
    x: &Tensor<B, 2>,
    weights: &PackedTensor<B>,
    counts: &[usize],
    dtype: DType,
) -> Option<Tensor<B, 2>> {
    let (packed, _) = packed::<B, R>(weights)?;
    let (x, door) = cube::float::<B, R, 2>(x)?;
    cube::wrap(&door, cube::grouped_product(&x, &Weights::Packed(&packed), counts, dtype)?)
}

pub(super) fn routed_experts<B: Backend>(
    x: &Tensor<B, 2>,
    logits: &Tensor<B, 2>,
    groups: &[RoutedExperts<'_, B>],
    shared: &Tensor<B, 2>,
) -> Option<Tensor<B, 2>> {
    on_runtimes!(routed_experts_on::<B>(x, logits, groups, shared))
}

fn routed_experts_on<B: Backend, R: CubeRuntime>(
    x: &Tensor<B, 2>,
    logits: &Tensor<B, 2>,
    groups: &[RoutedExperts<'_, B>],
    shared: &Tensor<B, 2>,
) -> Option<Tensor<B, 2>> {
    let (x, door) = cube::float::<B, R, 2>(x)?;
    let (logits, _) = cube::float::<B, R, 2>(logits)?;
    let (shared, _) = cube::float::<B, R, 2>(shared)?;
    let held: Option<Vec<_>> = groups.iter().map(|group| Some((held(group.gate_up)?, held(group.down)?))).collect();
    let held = held?;
    let of_kernel = groups.iter().zip(&held).map(|(group, (gate_up, down))| ExpertGroup {
        experts: group.experts.clone(),
        gate_up: gate_up.weights(),
        down: down.weights(),
    });
    let groups: Vec<_> = of_kernel.collect();
    cube::wrap(&door, cube::routed_experts(&x, &logits, &groups, &shared)?)
}

/// A weight on this runtime.
#[allow(clippy::large_enum_variant, reason = "a few for each call")]
enum Held<R: CubeRuntime> {
    Float(CubeTensor<R>),
    Packed(PackedRows<R>),
}

impl<R: CubeRuntime> Held<R> {
    fn weights(&self) -> Weights<'_, R> {
        match self {
            Self::Float(weight) => Weights::Float(weight),
            Self::Packed(packed) => Weights::Packed(packed),
        }
    }
}

fn held<B: Backend, R: CubeRuntime>(weight: &Weight<B, 3>) -> Option<Held<R>> {
    match weight {
        Weight::Float(weight) => Some(Held::Float(cube::float::<B, R, 3>(&weight.val())?.0)),
        Weight::Packed(weight) => Some(Held::Packed(packed::<B, R>(weight)?.0)),
        Weight::Split(_) => None,
    }
}

pub(super) fn cached_attention<B: Backend>(
    queries: &Tensor<B, 3>,
    cache: &LayerCache<B>,
    pieces: &[Piece],
    scale: f64,
) -> Option<Tensor<B, 3>> {
    on_runtimes!(cached_attention_on::<B>(queries, cache, pieces, scale))
}

fn cached_attention_on<B: Backend, R: CubeRuntime>(
    queries: &Tensor<B, 3>,
    cache: &LayerCache<B>,
    pieces: &[Piece],
    scale: f64,
) -> Option<Tensor<B, 3>> {
    let (keys, _) = cube::float::<B, R, 4>(cache.keys())?;
    let (values, _) = cube::float::<B, R, 4>(cache.values())?;
    let (queries, door) = cube::float::<B, R, 3>(queries)?;
    cube::wrap(&door, cube::cached_attention(&queries, &keys, &values, pieces, scale)?)
}

pub(super) fn fresh_attention<B: Backend>(
    queries: &Tensor<B, 3>,
    keys: &Tensor<B, 3>,
    values: &Tensor<B, 3>,
    pieces: &[Piece],
    scale: f64,
) -> Option<Tensor<B, 3>> {
    on_runtimes!(fresh_attention_on::<B>(queries, keys, values, pieces, scale))
}

fn fresh_attention_on<B: Backend, R: CubeRuntime>(
    queries: &Tensor<B, 3>,
    keys: &Tensor<B, 3>,
    values: &Tensor<B, 3>,
    pieces: &[Piece],
    scale: f64,
) -> Option<Tensor<B, 3>> {
    let (keys, _) = cube::float::<B, R, 3>(keys)?;
    let (values, _) = cube::float::<B, R, 3>(values)?;
    let (queries, door) = cube::float::<B, R, 3>(queries)?;
    cube::wrap(&door, cube::fresh_attention(&queries, &keys, &values, pieces, scale)?)
}

pub(super) fn packed_select<B: Backend>(weight: &PackedTensor<B>, ids: &Tensor<B, 1, Int>) -> Option<Tensor<B, 2>> {
    on_runtimes!(packed_select_on::<B>(weight, ids))
}

fn packed_select_on<B: Backend, R: CubeRuntime>(
    weight: &PackedTensor<B>,
    ids: &Tensor<B, 1, Int>,
) -> Option<Tensor<B, 2>> {
    let (packed, door) = packed::<B, R>(weight)?;
    let (ids, _) = cube::int::<B, R, 1>(ids.clone())?;
    cube::wrap(&door, cube::unpack(&packed, &Rows::Picked(&ids), FloatDType::F32.into())?)
}

pub(super) fn unpack_rows<B: Backend>(
    weight: &PackedTensor<B>,
    rows: Range<usize>,
    dtype: FloatDType,
) -> Option<Tensor<B, 2>> {
    on_runtimes!(unpack_rows_on::<B>(weight, rows.clone(), dtype))
}

fn unpack_rows_on<B: Backend, R: CubeRuntime>(
    weight: &PackedTensor<B>,
    rows: Range<usize>,
    dtype: FloatDType,
) -> Option<Tensor<B, 2>> {
    let (packed, door) = packed::<B, R>(weight)?;
    cube::wrap(&door, cube::unpack(&packed, &Rows::Range(rows), dtype.into())?)
}

pub(super) fn product<B: Backend, const D: usize>(a: &Tensor<B, D>, b: &Tensor<B, D>) -> Option<Tensor<B, D>> {
    if a.dtype() != DType::F32 {
        return None;
    }
    on_runtimes!(product_on::<B, D>(a, b))
}

fn product_on<B: Backend, R: CubeRuntime, const D: usize>(a: &Tensor<B, D>, b: &Tensor<B, D>) -> Option<Tensor<B, D>> {
    let (a, door) = cube::strided::<B, R, D>(a)?;
    let (b, _) = cube::strided::<B, R, D>(b)?;
    cube::wrap(&door, cube::exact_product(a, b)?)
}

pub(super) fn product_into<B: Backend, const D: usize>(
    a: &Tensor<B, D>,
    b: &Tensor<B, D>,
    dtype: DType,
) -> Option<Tensor<B, D>> {
    on_runtimes!(product_into_on::<B, D>(a, b, dtype))
}

fn product_into_on<B: Backend, R: CubeRuntime, const D: usize>(
    a: &Tensor<B, D>,
    b: &Tensor<B, D>,
    dtype: DType,
) -> Option<Tensor<B, D>> {
    let (a, door) = cube::strided::<B, R, D>(a)?;
    let (b, _) = cube::strided::<B, R, D>(b)?;
    cube::wrap(&door, cube::product_into(a, b, dtype)?)
}

pub(super) fn partial_sums<B: Backend>(x: &Tensor<B, 1>) -> Option<Tensor<B, 1>> {
    on_runtimes!(partial_sums_on::<B>(x))
}

fn partial_sums_on<B: Backend, R: CubeRuntime>(x: &Tensor<B, 1>) -> Option<Tensor<B, 1>> {
    let (x, door) = cube::float::<B, R, 1>(x)?;
    cube::wrap(&door, cube::partial_sums(&x)?)
}

pub(super) fn select_rows<B: Backend, const D: usize>(
    x: &Tensor<B, D>,
    ids: &Tensor<B, 1, Int>,
) -> Option<Tensor<B, D>> {
    on_runtimes!(select_rows_on::<B, D>(x, ids))
}

fn select_rows_on<B: Backend, R: CubeRuntime, const D: usize>(
    x: &Tensor<B, D>,
    ids: &Tensor<B, 1, Int>,
) -> Option<Tensor<B, D>> {
    if !cube::is_fused::<R, B::FloatTensorPrimitive>() {
        return None;
    }
    let ((x, door), (ids, _)) = (cube::strided::<B, R, D>(x)?, cube::int::<B, R, 1>(ids.clone())?);
    cube::wrap(&door, Unfused::<R>::float_select(x, 0, ids))
}

/// Under autodiff too, whose integers are the backend's own.
pub(super) fn select_words<B: Backend>(x: &Tensor<B, 2, Int>, ids: &Tensor<B, 1, Int>) -> Option<Tensor<B, 2, Int>> {
    on_runtimes!(select_words_on::<B>(x, ids))
}

fn select_words_on<B: Backend, R: CubeRuntime>(
    x: &Tensor<B, 2, Int>,
    ids: &Tensor<B, 1, Int>,
) -> Option<Tensor<B, 2, Int>> {
    if !cube::is_fused::<R, B::IntTensorPrimitive>() {
        return None;
    }
    let ((x, door), (ids, _)) = (cube::int::<B, R, 2>(x.clone())?, cube::int::<B, R, 1>(ids.clone())?);
    cube::wrap_int(&door, Unfused::<R>::int_select(x, 0, ids))
}

pub(super) fn gather_columns<B: Backend>(x: &Tensor<B, 2>, ids: &Tensor<B, 2, Int>) -> Option<Tensor<B, 2>> {
    on_runtimes!(gather_columns_on::<B>(x, ids))
}

fn gather_columns_on<B: Backend, R: CubeRuntime>(x: &Tensor<B, 2>, ids: &Tensor<B, 2, Int>) -> Option<Tensor<B, 2>> {
    if !cube::is_fused::<R, B::FloatTensorPrimitive>() {
        return None;
    }
    let ((x, door), (ids, _)) = (cube::strided::<B, R, 2>(x)?, cube::int::<B, R, 2>(ids.clone())?);
    cube::wrap(&door, Unfused::<R>::float_gather(1, x, ids))
}

/// A read that is asked for before more work is queued does not wait for that work, which the device begins with meanwhile.
pub(super) fn read_during<B: Backend, T>(x: &Tensor<B, 2>, work: impl FnOnce() -> T) -> (Vec<f32>, T) {
    let device = x.device();
    let work = || {
        let done = work();
        submit::<B>(&device);
        done
    };
    let floats = |(words, done): (Vec<u32>, T)| (words.into_iter().map(f32::from_bits).collect(), done);
    #[cfg(feature = "cuda")]
    if let Some((x, _)) = cube::float::<B, CudaRuntime, 2>(x) {
        return floats(cube::read_during(&x, work));
    }
    #[cfg(feature = "wgpu")]
    if let Some((x, _)) = cube::float::<B, WgpuRuntime, 2>(x) {
        return floats(cube::read_during(&x, work));
    }
    crate::ops::read::read_after(x, work)
}

/// The same of indices, which these backends have as words of 32 bits. A token's work is submitted as it is queued, and its end with the next read.
pub(super) fn read_ids_during<B: Backend, T>(ids: &Tensor<B, 2, Int>, work: impl FnOnce() -> T) -> (Vec<u32>, T) {
    let work = || crate::ops::read::ahead(work);
    #[cfg(feature = "cuda")]
    if let Some((ids, _)) = cube::int::<B, CudaRuntime, 2>(ids.clone()).filter(|(ids, _)| ids.dtype == DType::I32) {
        return cube::read_during(&ids, work);
    }
    #[cfg(feature = "wgpu")]
    if let Some((ids, _)) = cube::int::<B, WgpuRuntime, 2>(ids.clone()).filter(|(ids, _)| ids.dtype == DType::I32) {
        return cube::read_during(&ids, work);
    }
    crate::ops::read::read_ids_after(ids, work)
}

pub(super) fn queues<B: Backend>() -> Option<()> {
    on_runtimes!(queues_on::<B>())
}

fn queues_on<B: Backend, R: CubeRuntime>() -> Option<()> {
    cube::is_cube::<R, B::FloatTensorPrimitive>().then_some(())
}

pub(super) fn rows_at_once<B: Backend>() -> Option<usize> {
    on_runtimes!(rows_at_once_on::<B>())
}

fn rows_at_once_on<B: Backend, R: CubeRuntime>() -> Option<usize> {
    let rows = if cube::is_wgpu::<R>() { 2048 } else { 4096 };
    cube::is_cube::<R, B::FloatTensorPrimitive>().then_some(rows)
}

/// CUDA begins with each operation when it is queued; wgpu collects them.
pub(super) fn submit<B: Backend>(device: &B::Device) {
    #[cfg(feature = "wgpu")]
    if let Some(device) = (device as &dyn Any).downcast_ref() {
        flush::<WgpuRuntime>(device);
    }
    let _ = device;
}

#[cfg(feature = "wgpu")]
fn flush<R: CubeRuntime>(device: &R::Device) {
    R::client(device).flush();
}

/// burn's operations without fusion; its types of elements do not matter here.
type Unfused<R> = CubeBackend<R, f32, i32, u32>;

/// A packed weight's words, where they are on this runtime.
fn packed<B: Backend, R: CubeRuntime>(weight: &PackedTensor<B>) -> Option<(PackedRows<R>, Door<R>)> {
    let (words, door) = cube::int::<B, R, 2>(weight.words())?;
    let scales = match weight.scales() {
        Some(scales) => Some(cube::int::<B, R, 2>(scales)?.0),
        None => None,
    };
    Some((PackedRows { packing: weight.packing(), columns: weight.columns(), words, scales }, door))
}
