//! What new tokens go through: operations on single tokens, heads and caches.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
#[cfg(feature = "cuda")]
use cubecl::cuda::CudaRuntime;
#[cfg(feature = "wgpu")]
use cubecl::wgpu::WgpuRuntime;

use super::packed;
use crate::cache::{LayerCache, Span};
use crate::ops::cube::{self, Chosen, Door, Heads, Norm, PackedRows, Steps};
use crate::ops::{HeadSteps, InputNorm, NewHeads, OneExpert, Places};
use crate::quant::PackedTensor;

pub(in crate::ops::dispatch) fn rms_norm<B: Backend>(
    x: &Tensor<B, 2>,
    weight: &Tensor<B, 1>,
    epsilon: f64,
) -> Option<Tensor<B, 2>> {
    on_runtimes!(rms_norm_on::<B>(x, weight, epsilon))
}

fn rms_norm_on<B: Backend, R: CubeRuntime>(
    x: &Tensor<B, 2>,
    weight: &Tensor<B, 1>,
    epsilon: f64,
) -> Option<Tensor<B, 2>> {
    let ((x, door), (weight, _)) = (cube::float::<B, R, 2>(x)?, cube::float::<B, R, 1>(weight)?);
    cube::wrap(&door, cube::rms_norm(&x, &weight, epsilon)?)
}

pub(in crate::ops::dispatch) fn position_heads<B: Backend>(
    x: &Tensor<B, 3>,
    steps: &HeadSteps<B>,
) -> Option<Tensor<B, 3>> {
    on_runtimes!(position_heads_on::<B>(x, steps))
}

fn position_heads_on<B: Backend, R: CubeRuntime>(x: &Tensor<B, 3>, steps: &HeadSteps<B>) -> Option<Tensor<B, 3>> {
    let (x, door) = cube::float::<B, R, 3>(x)?;
    let own = OwnSteps::new(steps)?;
    cube::wrap(&door, cube::position_heads(&x, &own.steps())?)
}

pub(in crate::ops::dispatch) fn swiglu<B: Backend>(gate: &Tensor<B, 2>, up: &Tensor<B, 2>) -> Option<Tensor<B, 2>> {
    on_runtimes!(swiglu_on::<B>(gate, up))
}

fn swiglu_on<B: Backend, R: CubeRuntime>(gate: &Tensor<B, 2>, up: &Tensor<B, 2>) -> Option<Tensor<B, 2>> {
    let ((gate, door), (up, _)) = (cube::float::<B, R, 2>(gate)?, cube::float::<B, R, 2>(up)?);
    cube::wrap(&door, cube::swiglu(&gate, &up)?)
}

pub(in crate::ops::dispatch) fn swiglu_halves<B: Backend>(gate_up: &Tensor<B, 2>) -> Option<Tensor<B, 2>> {
    on_runtimes!(swiglu_halves_on::<B>(gate_up))
}

fn swiglu_halves_on<B: Backend, R: CubeRuntime>(gate_up: &Tensor<B, 2>) -> Option<Tensor<B, 2>> {
    let (gate_up, door) = cube::float::<B, R, 2>(gate_up)?;
    cube::wrap(&door, cube::swiglu_halves(&gate_up)?)
}

pub(in crate::ops::dispatch) fn argmax<B: Backend>(x: &Tensor<B, 2>) -> Option<Tensor<B, 2, Int>> {
    on_runtimes!(argmax_on::<B>(x))
}

fn argmax_on<B: Backend, R: CubeRuntime>(x: &Tensor<B, 2>) -> Option<Tensor<B, 2, Int>> {
    let (x, door) = cube::float::<B, R, 2>(x)?;
    cube::wrap_int(&door, cube::argmax(&x)?)
}

pub(in crate::ops::dispatch) fn decode_attention<B: Backend>(
    new: &NewHeads<B>,
    steps: &HeadSteps<B>,
    cache: &mut LayerCache<B>,
    places: &Places<'_, B>,
    scale: f64,
) -> Option<Tensor<B, 3>> {
    on_runtimes!(decode_attention_on::<B>(new, steps, &mut *cache, places, scale))
}

fn decode_attention_on<B: Backend, R: CubeRuntime>(
    new: &NewHeads<B>,
    steps: &HeadSteps<B>,
    cache: &mut LayerCache<B>,
    places: &Places<'_, B>,
    scale: f64,
) -> Option<Tensor<B, 3>> {
    let (queries, door) = cube::float::<B, R, 3>(&new.queries)?;
    let ((keys, _), (values, _)) = (cube::float::<B, R, 3>(&new.keys)?, cube::float::<B, R, 3>(&new.values)?);
    let new = Heads { queries: &queries, keys: &keys, values: &values };
    let steps = OwnSteps::new(steps)?;
    let (table, _) = cube::int::<B, R, 2>(places.table.clone())?;
    let chunk = cache.chunk();
    let seen = |span: &Span| chunk.map_or(span.past, |chunk| span.past % chunk) + 1;
    let most = places.spans.iter().map(seen).max()?;
    let attended = cache.rewrite(|keys, values| {
        let [(keys, keys_door), (values, values_door)] = [keys, values].map(own_storage::<B, R, 4>);
        let places = cube::Places { table: &table, chunk, most };
        let attended = cube::decode_attention(&new, &steps.steps(), scale, [&keys, &values], &places);
        (back(&keys_door, keys), back(&values_door, values), attended)
    })?;
    cube::wrap(&door, attended)
}

/// The tensor's storage, for its own use alone: copied if anybody else has it too.
fn own_storage<B: Backend, R: CubeRuntime, const D: usize>(tensor: Tensor<B, D>) -> (CubeTensor<R>, Door<R>) {
    let (tensor, door) = cube::owned::<B, R, D>(tensor).expect("on the runtime of the other tensors");
    let tensor = if tensor.can_mut() && tensor.is_contiguous() { tensor } else { tensor.copy() };
    (tensor, door)
}

fn back<B: Backend, R: CubeRuntime>(door: &Door<R>, tensor: CubeTensor<R>) -> Tensor<B, 4> {
    cube::wrap(door, tensor).expect("on the backend that it came from")
}

/// Steps whose tensors are the runtime's.
struct OwnSteps<R: CubeRuntime> {
    rotation: Option<(CubeTensor<R>, CubeTensor<R>)>,
    norm: Option<f64>,
    temperature: Option<CubeTensor<R>>,
}

impl<R: CubeRuntime> OwnSteps<R> {
    fn new<B: Backend>(steps: &HeadSteps<B>) -> Option<Self> {
        let rotation = match &steps.rotation {
            Some((cos, sin)) => Some((cube::float::<B, R, 3>(cos)?.0, cube::float::<B, R, 3>(sin)?.0)),
            None => None,
        };
        let temperature = match &steps.temperature {
            Some(temperature) => Some(cube::float::<B, R, 3>(temperature)?.0),
            None => None,
        };
        Some(Self { rotation, norm: steps.norm, temperature })
    }

    fn steps(&self) -> Steps<'_, R> {
        Steps {
            rotation: self.rotation.as_ref().map(|(cos, sin)| (cos, sin)),
            norm: self.norm,
            temperature: self.temperature.as_ref(),
        }
    }
}

pub(in crate::ops::dispatch) fn fuses_tokens<B: Backend>(weight: &PackedTensor<B>, dtype: DType) -> Option<()> {
    on_runtimes!(fuses_tokens_on::<B>(weight, dtype))
}

fn fuses_tokens_on<B: Backend, R: CubeRuntime>(weight: &PackedTensor<B>, dtype: DType) -> Option<()> {
    let (weight, _) = packed::<B, R>(weight)?;
    cube::fuses_tokens(&weight, dtype).then_some(())
}

pub(in crate::ops::dispatch) fn normed_linears<B: Backend>(
    x: &Tensor<B, 2>,
    norm: &InputNorm<B>,
    weights: &[&PackedTensor<B>],
) -> Option<Vec<Tensor<B, 2>>> {
    on_runtimes!(normed_linears_on::<B>(x, norm, weights))
}

fn normed_linears_on<B: Backend, R: CubeRuntime>(
    x: &Tensor<B, 2>,
    norm: &InputNorm<B>,
    weights: &[&PackedTensor<B>],
) -> Option<Vec<Tensor<B, 2>>> {
    let (x, door) = cube::float::<B, R, 2>(x)?;
    let weight = cube::float::<B, R, 1>(&norm.weight)?.0;
    let norm = Norm { weight: &weight, epsilon: norm.epsilon };
    let weights: Vec<PackedRows<R>> =
        weights.iter().map(|weight| Some(packed::<B, R>(weight)?.0)).collect::<Option<_>>()?;
    let parts = cube::normed_rows(&x, &norm, &weights.iter().collect::<Vec<_>>())?;
    parts.into_iter().map(|part| cube::wrap(&door, part)).collect()
}

pub(in crate::ops::dispatch) fn router_logits<B: Backend>(
    x: &Tensor<B, 2>,
    norm: &InputNorm<B>,
    weight: &Tensor<B, 2>,
) -> Option<Tensor<B, 2>> {
    on_runtimes!(router_logits_on::<B>(x, norm, weight))
}

fn router_logits_on<B: Backend, R: CubeRuntime>(
    x: &Tensor<B, 2>,
    norm: &InputNorm<B>,
    weight: &Tensor<B, 2>,
) -> Option<Tensor<B, 2>> {
    let ((x, door), (weight, _)) = (cube::float::<B, R, 2>(x)?, cube::float::<B, R, 2>(weight)?);
    let norm_weight = cube::float::<B, R, 1>(&norm.weight)?.0;
    let norm = Norm { weight: &norm_weight, epsilon: norm.epsilon };
    cube::wrap(&door, cube::router_logits(&x, &norm, &weight)?)
}

pub(in crate::ops::dispatch) fn normed_swiglu<B: Backend>(
    x: &Tensor<B, 2>,
    norm: &InputNorm<B>,
    gate_up: [&PackedTensor<B>; 2],
    chosen: Option<&OneExpert<'_, B>>,
) -> Option<Tensor<B, 2>> {
    on_runtimes!(normed_swiglu_on::<B>(x, norm, gate_up, chosen))
}

fn normed_swiglu_on<B: Backend, R: CubeRuntime>(
    x: &Tensor<B, 2>,
    norm: &InputNorm<B>,
    [gate, up]: [&PackedTensor<B>; 2],
    chosen: Option<&OneExpert<'_, B>>,
) -> Option<Tensor<B, 2>> {
    let (x, door) = cube::float::<B, R, 2>(x)?;
    let weight = cube::float::<B, R, 1>(&norm.weight)?.0;
    let norm = Norm { weight: &weight, epsilon: norm.epsilon };
    let ((gate, _), (up, _)) = (packed::<B, R>(gate)?, packed::<B, R>(up)?);
    let own = OwnExpert::new(chosen)?;
    cube::wrap(&door, cube::gated(&x, &norm, &gate, &up, own.chosen().as_ref())?)
}

pub(in crate::ops::dispatch) fn add_linear<B: Backend>(
    residual: &Tensor<B, 2>,
    x: &Tensor<B, 2>,
    weight: &PackedTensor<B>,
    chosen: Option<&OneExpert<'_, B>>,
) -> Option<Tensor<B, 2>> {
    on_runtimes!(add_linear_on::<B>(residual, x, weight, chosen))
}

fn add_linear_on<B: Backend, R: CubeRuntime>(
    residual: &Tensor<B, 2>,
    x: &Tensor<B, 2>,
    weight: &PackedTensor<B>,
    chosen: Option<&OneExpert<'_, B>>,
) -> Option<Tensor<B, 2>> {
    let ((residual, door), (x, _)) = (cube::float::<B, R, 2>(residual)?, cube::float::<B, R, 2>(x)?);
    let (weight, _) = packed::<B, R>(weight)?;
    let own = OwnExpert::new(chosen)?;
    cube::wrap(&door, cube::down(&x, &weight, own.chosen().as_ref(), &residual)?)
}

/// Experts and logits that are the runtime's, if there are any.
struct OwnExpert<R: CubeRuntime>(Option<(PackedRows<R>, CubeTensor<R>)>);

impl<R: CubeRuntime> OwnExpert<R> {
    fn new<B: Backend>(chosen: Option<&OneExpert<'_, B>>) -> Option<Self> {
        let Some(chosen) = chosen else { return Some(Self(None)) };
        Some(Self(Some((packed::<B, R>(chosen.experts)?.0, cube::float::<B, R, 2>(chosen.logits)?.0))))
    }

    fn chosen(&self) -> Option<Chosen<'_, R>> {
        self.0.as_ref().map(|(experts, logits)| Chosen { experts, logits })
    }
}
