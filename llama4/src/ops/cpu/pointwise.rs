use burn_ndarray::NdArrayTensor;

use super::kernels::{self, Heads, Level, Pool};
use super::{floats, tensor};

/// `x [tokens, width]`, `weight [width]`.
pub(in crate::ops) fn rms_norm(x: &NdArrayTensor, weight: &NdArrayTensor, epsilon: f64) -> Option<NdArrayTensor> {
    floats!(x, weight);
    let width = weight.len();
    let rows = x.len().checked_div(width)?;
    tensor(vec![rows, width], |y| {
        kernels::rms_norm(Pool::global(), Level::current(), x, weight, epsilon as f32, y);
    })
}

/// `gate`, `up` `[tokens, width]`.
pub(in crate::ops) fn swiglu(gate: &NdArrayTensor, up: &NdArrayTensor, width: usize) -> Option<NdArrayTensor> {
    floats!(gate, up);
    let rows = gate.len().checked_div(width)?;
    tensor(vec![rows, width], |y| kernels::swiglu(Pool::global(), Level::current(), gate, up, width, width, y))
}

/// `gate_up [tokens, 2 * width]`.
pub(in crate::ops) fn swiglu_halves(gate_up: &NdArrayTensor, width: usize) -> Option<NdArrayTensor> {
    floats!(gate_up);
    let rows = gate_up.len().checked_div(2 * width)?;
    tensor(vec![rows, width], |y| {
        let up = gate_up.get(width..).unwrap_or_default();
        kernels::swiglu(Pool::global(), Level::current(), gate_up, up, 2 * width, width, y);
    })
}

/// `x [tokens, heads, head_dim]`, cosine and sine `[tokens, 1, head_dim / 2]`, scale `[tokens, 1, 1]`.
pub(in crate::ops) fn position_heads(
    x: &NdArrayTensor,
    [tokens, heads, head_dim]: [usize; 3],
    rotation: Option<(&NdArrayTensor, &NdArrayTensor)>,
    norm: Option<f64>,
    scale: Option<&NdArrayTensor>,
) -> Option<NdArrayTensor> {
    let run = |rotation: Option<(&[f32], &[f32])>, scale: Option<&[f32]>| {
        floats!(x);
        tensor(vec![tokens, heads, head_dim], |y| {
            let work = Heads { heads, head_dim, rotation, norm: norm.map(|epsilon| epsilon as f32), scale };
            kernels::heads(Pool::global(), Level::current(), x, work, y);
        })
    };
    match (rotation, scale) {
        (None, None) => run(None, None),
        (None, Some(scale)) => {
            floats!(scale);
            run(None, Some(scale))
        }
        (Some((cos, sin)), None) => {
            floats!(cos, sin);
            run(Some((cos, sin)), None)
        }
        (Some((cos, sin)), Some(scale)) => {
            floats!(cos, sin, scale);
            run(Some((cos, sin)), Some(scale))
        }
    }
}

/// Rows of `x`, along its first axis, in the order of `ids`. `None` if one is not there.
pub(in crate::ops) fn select_rows(x: &NdArrayTensor, shape: &[usize], ids: &[usize]) -> Option<NdArrayTensor> {
    floats!(x);
    let (&rows, rest) = shape.split_first()?;
    let width: usize = rest.iter().product();
    if width == 0 || ids.iter().any(|&id| id >= rows) {
        return None;
    }
    let shape = [&[ids.len()], rest].concat();
    tensor(shape, |y| kernels::select_rows(Pool::global(), x, ids, width, y))
}
