use burn_ndarray::{NdArrayTensor, SharedArray};

use super::kernels::{self, Level, Matrix, Norm, Pool};
use super::{PackedRows, floats, tensor};

/// RMS norm of what goes into a product: the weight, `[in]`, and epsilon.
pub(in crate::ops) type InputNorm<'a> = (&'a NdArrayTensor, f64);

/// The experts of a layer, and the router's logits, `[1, experts]`.
pub(in crate::ops) struct Experts {
    pub(in crate::ops) rows: PackedRows,
    pub(in crate::ops) logits: NdArrayTensor,
}

/// What the logits say.
struct Choice {
    index: usize,
    count: usize,
    /// What the expert's input is scaled by.
    score: f32,
}

impl Experts {
    /// The expert with the highest logit, of equal ones the first.
    fn choice(&self) -> Option<Choice> {
        let logits = &self.logits;
        floats!(logits);
        let index = (1..logits.len()).fold(0, |best, at| if logits[at] > logits[best] { at } else { best });
        let score = 1.0 / (1.0 + (-logits.get(index)?).exp());
        Some(Choice { index, count: logits.len(), score })
    }
}

impl Choice {
    /// Its rows, of which each expert has `pieces` of the same number.
    fn expert<'a>(&self, experts: Matrix<'a>, pieces: usize) -> Option<kernels::Expert<'a>> {
        let whole = experts.rows().is_multiple_of(pieces * self.count);
        whole.then_some(kernels::Expert { experts, count: self.count, index: self.index })
    }
}

/// Whether all are packed alike and as wide as `columns`.
fn alike<'a>(weights: impl IntoIterator<Item = &'a Matrix<'a>>, columns: usize) -> bool {
    let mut packing = None;
    weights.into_iter().all(|weight| {
        weight.columns() == columns && *packing.get_or_insert_with(|| weight.packing()) == weight.packing()
    })
}

/// `x [1, in]`, weights `[out, in]` each.
pub(in crate::ops) fn normed_linears(
    x: &NdArrayTensor,
    (norm, epsilon): InputNorm,
    weights: &[PackedRows],
) -> Option<Vec<NdArrayTensor>> {
    floats!(x, norm);
    let weights: Vec<Matrix> = weights.iter().map(PackedRows::matrix).collect::<Option<_>>()?;
    if !alike(&weights, norm.len()) || x.len() != norm.len() {
        return None;
    }
    let mut ys: Vec<Vec<f32>> = weights.iter().map(|weight| vec![0.0; weight.rows()]).collect();
    let norm = Norm { weight: norm, epsilon: epsilon as f32 };
    kernels::normed_products(Pool::global(), Level::current(), x, norm, &weights, &mut ys);
    ys.into_iter().map(|y| Some(SharedArray::from_shape_vec(vec![1, y.len()], y).ok()?.into())).collect()
}

/// `x [1, in]`, gate and up `[width, in]`, experts `[experts * 2 * intermediate, in]`.
pub(in crate::ops) fn normed_swiglu(
    x: &NdArrayTensor,
    (norm, epsilon): InputNorm,
    gate: &PackedRows,
    up: &PackedRows,
    experts: Option<&Experts>,
) -> Option<NdArrayTensor> {
    floats!(x, norm);
    let (gate, up) = (gate.matrix()?, up.matrix()?);
    let mut inner = 0;
    let expert = match experts {
        Some(experts) => {
            let (choice, rows) = (experts.choice()?, experts.rows.matrix()?);
            inner = rows.rows() / choice.count / 2;
            Some((choice.expert(rows, 2)?, choice.score))
        }
        None => None,
    };
    let all = [&gate, &up].into_iter().chain(expert.as_ref().map(|(expert, _)| &expert.experts));
    if !alike(all, norm.len()) || x.len() != norm.len() || gate.rows() != up.rows() {
        return None;
    }
    let norm = Norm { weight: norm, epsilon: epsilon as f32 };
    tensor(vec![1, gate.rows() + inner], |y| {
        kernels::normed_swiglu(Pool::global(), Level::current(), x, norm, [gate, up], expert, y);
    })
}

/// `residual [1, out]`, `x [1, in]` or `[1, in + intermediate]`, weight `[out, in]`, experts `[experts * out, intermediate]`.
pub(in crate::ops) fn add_linear(
    residual: &NdArrayTensor,
    x: &NdArrayTensor,
    weight: &PackedRows,
    experts: Option<&Experts>,
) -> Option<NdArrayTensor> {
    floats!(residual, x);
    let weight = weight.matrix()?;
    let expert = match experts {
        Some(experts) => Some(experts.choice()?.expert(experts.rows.matrix()?, 1)?),
        None => None,
    };
    let outputs = expert.map_or(weight.rows(), |expert| expert.experts.rows() / expert.count);
    let inputs = weight.columns() + expert.map_or(0, |expert| expert.experts.columns());
    if x.len() != inputs || residual.len() != weight.rows() || outputs != weight.rows() {
        return None;
    }
    tensor(vec![1, weight.rows()], |y| {
        kernels::add_products(Pool::global(), Level::current(), residual, x, weight, expert, y);
    })
}
