//! What a decoded token goes through in a layer, with its neighbours in one section each. Where a section begins and ends, and while one thread does
//! the small work between two, memory does nothing, and a token's time is memory's.

use std::cell::RefCell;
use std::ops::Range;

use super::activations::Activations;
use super::foresight::Reading;
use super::level::Level;
use super::matrix::Matrix;
use super::pointwise::{norm_rows, swiglu_row};
use super::pool::Pool;
use super::product::{KEPT, are_exact, bytes_per_task};
use super::share::Share;
use super::{block_dot, dot};
use crate::quant::Packing;

/// Rows of a weight that a task's begin is a multiple of: kernels take as many at once.
const ROWS: usize = 4;

/// RMS norm of what goes into a product.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops::cpu) struct Norm<'a> {
    pub(in crate::ops::cpu) weight: &'a [f32],
    pub(in crate::ops::cpu) epsilon: f32,
}

/// The expert that a token goes to.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops::cpu) struct Expert<'a> {
    /// The rows of all experts, one expert's after the other's.
    pub(in crate::ops::cpu) experts: Matrix<'a>,
    /// How many experts there are.
    pub(in crate::ops::cpu) count: usize,
    /// Which one it is.
    pub(in crate::ops::cpu) index: usize,
}

impl<'a> Expert<'a> {
    /// Its own rows.
    fn weight(&self) -> Matrix<'a> {
        assert!(self.index < self.count && self.experts.rows().is_multiple_of(self.count), "one of as many experts");
        let rows = self.experts.rows() / self.count;
        self.experts.band(self.index * rows..(self.index + 1) * rows)
    }
}

/// A row of activations, and what weights of its packing are multiplied with.
#[derive(Debug, Default)]
struct Input {
    row: Vec<f32>,
    activations: Activations,
    packing: Option<Packing>,
    exact: bool,
}

/// What the calling thread keeps from one token to the next.
#[derive(Debug, Default)]
struct Kept {
    /// Of the weights of every token, and of an expert.
    inputs: [Input; 2],
}

thread_local! {
    static INPUTS: RefCell<Kept> = RefCell::default();
    /// Sums of a task's rows of gate and up.
    static GATE_UP: RefCell<[Vec<f32>; 2]> = RefCell::default();
}

impl Input {
    /// Take the row that `fill` writes, for products with `weight`.
    fn set(&mut self, pool: &Pool, level: Level, weight: &Matrix, fill: impl FnOnce(&mut [f32])) {
        self.row.resize(weight.columns(), 0.0);
        fill(&mut self.row);
        (self.packing, self.exact) = (weight.packing(), are_exact());
        if let Some(packing) = self.quantized() {
            self.activations.quantize(pool, level, packing, &self.row, weight.columns(), &[0]);
        }
    }

    /// The packing of weights that it is quantised for.
    fn quantized(&self) -> Option<Packing> {
        self.packing.filter(|packing| packing.has_scales() && !self.exact)
    }

    /// `y(row of the weight)` for all of them.
    fn dots(&self, level: Level, weight: &Matrix, mut y: impl FnMut(usize, f32)) {
        assert_eq!(weight.packing(), self.packing, "weights that the row was made for");
        match self.quantized() {
            Some(_) => block_dot::dots(level, weight, &self.activations, 0, 1, |at, _, sum| y(at, sum)),
            None => dot::dots(level, weight, &self.row, self.exact, |at, _, sum| y(at, sum)),
        }
    }
}

/// Rows of the output of one section: `rows` of them, for each of which `bytes` are read.
#[derive(Debug, Clone, Copy)]
struct Part {
    rows: usize,
    bytes: usize,
}

/// Run `work(part, rows)` on all rows of all parts. Each thread's share goes through its part of one, then of the next, as it does where a
/// product's weights are asked for ahead.
fn section(pool: &Pool, parts: &[Part], reading: Reading, work: impl Fn(usize, Range<usize>) + Sync) {
    let threads = pool.threads();
    let per_task = bytes_per_task(parts.iter().map(|part| part.rows * part.bytes).sum(), threads);
    // Pieces of each part in a thread's share.
    let pieces = |part: &Part| (part.rows * part.bytes).div_ceil(threads * per_task).max(1);
    let of_thread: usize = parts.iter().map(pieces).sum();
    let coming = KEPT.with_borrow_mut(|kept| kept.foresight.next(reading));
    pool.run_before(coming, threads * of_thread, |task| {
        let (thread, mut piece) = (task / of_thread, task % of_thread);
        for (index, part) in parts.iter().enumerate() {
            let own = pieces(part);
            if piece < own {
                let border = |at: usize| match at == threads * own {
                    true => part.rows,
                    false => part.rows * at / (threads * own) / ROWS * ROWS,
                };
                let at = thread * own + piece;
                return work(index, border(at)..border(at + 1));
            }
            piece -= own;
        }
    });
}

/// Products of the norm of one row `x` with weights of one packing, each into a row of its own.
///
/// # Panics
/// If lengths do not belong together, or the packings are several.
pub(in crate::ops::cpu) fn normed_products(
    pool: &Pool,
    level: Level,
    x: &[f32],
    norm: Norm,
    weights: &[Matrix],
    ys: &mut [Vec<f32>],
) {
    let Some(first) = weights.first() else { return };
    assert_eq!(weights.len(), ys.len(), "a row for each weight");
    assert!(weights.iter().zip(&*ys).all(|(weight, y)| weight.rows() == y.len()), "values for the rows of each weight");
    INPUTS.with_borrow_mut(|Kept { inputs: [input, _] }| {
        input.set(pool, level, first, |row| norm.apply(level, x, row));
        let parts: Vec<Part> =
            weights.iter().map(|weight| Part { rows: weight.rows(), bytes: weight.row_bytes() }).collect();
        let ys: Vec<Share<f32>> = ys.iter_mut().map(|y| Share::new(y)).collect();
        let input = &*input;
        section(pool, &parts, Reading::new(weights, None), |part, rows| {
            let weight = weights[part].band(rows.clone());
            // SAFETY: rows of a weight are one task's.
            let y = unsafe { ys[part].part(rows.start, rows.len()) };
            input.dots(level, &weight, |at, sum| y[at] = sum);
        });
    });
}

/// `y = silu(gate) · up` of the norm of one row `x`: with the rows of `gate` and `up`, and behind those with the rows of an expert, gate's first and
/// then up's, whose input is scaled by `score`.
///
/// # Panics
/// If lengths do not belong together, or the packings are several.
pub(in crate::ops::cpu) fn normed_swiglu(
    pool: &Pool,
    level: Level,
    x: &[f32],
    norm: Norm,
    [gate, up]: [Matrix; 2],
    expert: Option<(Expert, f32)>,
    y: &mut [f32],
) {
    let of_expert = expert.map(|(expert, _)| expert.weight());
    let inner = of_expert.map_or(0, |weight| weight.rows() / 2);
    assert!(gate.rows() == up.rows() && y.len() == gate.rows() + inner, "a value for each pair of rows");
    INPUTS.with_borrow_mut(|Kept { inputs: [input, scaled] }| {
        input.set(pool, level, &gate, |row| norm.apply(level, x, row));
        if let Some((expert, score)) = expert {
            scaled.set(pool, level, &expert.experts, |row| {
                row.iter_mut().zip(&input.row).for_each(|(scaled, x)| *scaled = x * score);
            });
        }
        let pairs = [Some((gate, up)), of_expert.map(|weight| (weight.band(0..inner), weight.band(inner..2 * inner)))];
        let pairs: Vec<(Matrix, Matrix)> = pairs.into_iter().flatten().collect();
        let parts: Vec<Part> = pairs
            .iter()
            .map(|(gate, up)| Part { rows: gate.rows(), bytes: gate.row_bytes() + up.row_bytes() })
            .collect();
        let inputs = [&*input, &*scaled];
        let y = Share::new(y);
        let reading = Reading::new(
            &[gate, up],
            expert.as_ref().map(|(expert, _)| (&expert.experts, expert.count, Some(expert.index))),
        );
        section(pool, &parts, reading, |part, rows| {
            GATE_UP.with_borrow_mut(|sums| {
                let of_both = [pairs[part].0, pairs[part].1];
                for (sums, weight) in sums.iter_mut().zip(of_both) {
                    sums.resize(rows.len(), 0.0);
                    inputs[part].dots(level, &weight.band(rows.clone()), |at, sum| sums[at] = sum);
                }
                // SAFETY: rows of a weight are one task's; an expert's values lie behind those of `gate` and `up`.
                let y = unsafe { y.part(part * gate.rows() + rows.start, rows.len()) };
                swiglu_row(level, &sums[0], &sums[1], y);
            });
        });
    });
}

/// `y = residual + W x`, and the product of an expert with what stands behind that in `x`.
///
/// # Panics
/// If lengths do not belong together.
pub(in crate::ops::cpu) fn add_products(
    pool: &Pool,
    level: Level,
    residual: &[f32],
    x: &[f32],
    weight: Matrix,
    expert: Option<Expert>,
    y: &mut [f32],
) {
    let of_expert = expert.map(|expert| expert.weight());
    let outputs = of_expert.map_or(weight.rows(), |weight| weight.rows());
    assert!(weight.rows() == y.len() && residual.len() == y.len() && outputs == y.len(), "a value for each row");
    let (own, behind) = x.split_at(weight.columns());
    INPUTS.with_borrow_mut(|Kept { inputs: [input, routed] }| {
        input.set(pool, level, &weight, |row| row.copy_from_slice(own));
        if let Some(weight) = &of_expert {
            routed.set(pool, level, weight, |row| row.copy_from_slice(behind));
        }
        let bytes = weight.row_bytes() + of_expert.map_or(0, |weight| weight.row_bytes());
        let (input, routed) = (&*input, &*routed);
        let y = Share::new(y);
        let reading =
            Reading::new(&[weight], expert.as_ref().map(|expert| (&expert.experts, expert.count, Some(expert.index))));
        section(pool, &[Part { rows: weight.rows(), bytes }], reading, |_, rows| {
            // SAFETY: rows of a weight are one task's.
            let y = unsafe { y.part(rows.start, rows.len()) };
            input.dots(level, &weight.band(rows.clone()), |at, sum| y[at] = sum);
            if let Some(weight) = &of_expert {
                routed.dots(level, &weight.band(rows.clone()), |at, sum| y[at] += sum);
            }
            y.iter_mut().zip(&residual[rows]).for_each(|(y, residual)| *y += residual);
        });
    });
}

impl Norm<'_> {
    fn apply(&self, level: Level, x: &[f32], y: &mut [f32]) {
        assert!(x.len() == y.len() && self.weight.len() == y.len(), "one row");
        norm_rows(level, x, self.weight, self.epsilon, y);
    }
}

#[cfg(test)]
mod tests {
    use super::super::pointwise;
    use super::super::product::{product, with_exact_activations};
    use super::super::testing::{Weight, numbers};
    use super::*;

    const PACKINGS: [Option<Packing>; 5] =
        [None, Some(Packing::Bf16), Some(Packing::F16), Some(Packing::Q8), Some(Packing::Q4)];

    /// Within what sums in another order may differ by.
    fn close(found: &[f32], expected: &[f32], what: &str) {
        assert_eq!(found.len(), expected.len(), "{what}");
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!(
                (found - expected).abs() <= 1e-5 * (1.0 + expected.abs()),
                "{what}: {at} is {found} for {expected}"
            );
        }
    }

    /// Run `test` for every level, packing, and with activations as they are or as they come.
    fn everywhere(test: impl Fn(Level, Option<Packing>, &str)) {
        for level in Level::available() {
            for packing in PACKINGS {
                test(level, packing, &format!("{level}, {packing:?}"));
                with_exact_activations(|| test(level, packing, &format!("{level}, {packing:?}, exact")));
            }
        }
    }

    fn normed(level: Level, x: &[f32], norm: Norm) -> Vec<f32> {
        let mut y = vec![f32::NAN; x.len()];
        pointwise::rms_norm(Pool::global(), level, x, norm.weight, norm.epsilon, &mut y);
        y
    }

    #[test]
    fn products_of_a_norm_are_those_of_one_after_the_other() {
        let pool = Pool::global();
        everywhere(|level, packing, what| {
            let columns = 160;
            let (x, norm) = (numbers(columns, 3), numbers(columns, 4));
            let norm = Norm { weight: &norm, epsilon: 1e-5 };
            // Fewer rows than threads have pieces, rows that are no multiple of what kernels take, and one part much longer than the others.
            let weights = [3, 37, 500].map(|rows| Weight::new(packing, rows, columns));
            let weights = [weights[0].matrix(), weights[1].matrix(), weights[2].matrix()];
            let mut ys = weights.map(|weight| vec![f32::NAN; weight.rows()]);
            normed_products(pool, level, &x, norm, &weights, &mut ys);
            let x = normed(level, &x, norm);
            for (weight, y) in weights.iter().zip(&ys) {
                close(y, &product(pool, level, &x, weight, &[1]), what);
            }
        });
    }

    #[test]
    fn a_gate_and_an_experts_are_those_of_one_after_the_other() {
        let pool = Pool::global();
        everywhere(|level, packing, what| {
            let (columns, width, inner, experts) = (96, 41, 23, 3);
            let (x, norm) = (numbers(columns, 3), numbers(columns, 4));
            let norm = Norm { weight: &norm, epsilon: 1e-5 };
            let [gate, up] = [width, width + 1].map(|rows| Weight::new(packing, rows, columns));
            let of_experts = Weight::new(packing, experts * 2 * inner, columns);
            let (gate, up, of_experts) = (gate.matrix(), up.matrix().band(1..width + 1), of_experts.matrix());

            let normed = normed(level, &x, norm);
            let [g, u] = [&gate, &up].map(|weight| product(pool, level, &normed, weight, &[1]));
            let mut shared = vec![f32::NAN; width];
            pointwise::swiglu(pool, level, &g, &u, width, width, &mut shared);
            let mut y = vec![f32::NAN; width];
            normed_swiglu(pool, level, &x, norm, [gate, up], None, &mut y);
            close(&y, &shared, what);

            for index in 0..experts {
                let expert = Expert { experts: of_experts, count: experts, index };
                let scaled: Vec<f32> = normed.iter().map(|x| x * 0.3).collect();
                let both = product(pool, level, &scaled, &expert.weight(), &[1]);
                let mut expected = shared.clone();
                expected.resize(width + inner, f32::NAN);
                let routed = &mut expected[width..];
                pointwise::swiglu(pool, level, &both, &both[inner..], 2 * inner, inner, routed);
                let mut y = vec![f32::NAN; width + inner];
                normed_swiglu(pool, level, &x, norm, [gate, up], Some((expert, 0.3)), &mut y);
                close(&y, &expected, what);
            }
        });
    }

    #[test]
    fn added_products_are_those_of_one_after_the_other() {
        let pool = Pool::global();
        everywhere(|level, packing, what| {
            let (output, width, inner, experts) = (37, 160, 96, 3);
            let (residual, x) = (numbers(output, 3), numbers(width + inner, 4));
            let weight = Weight::new(packing, output, width);
            let of_experts = Weight::new(packing, experts * output, inner);
            let (weight, of_experts) = (weight.matrix(), of_experts.matrix());
            let sum = |a: &[f32], b: &[f32]| -> Vec<f32> { a.iter().zip(b).map(|(a, b)| a + b).collect() };

            let added = sum(&residual, &product(pool, level, &x[..width], &weight, &[1]));
            let mut y = vec![f32::NAN; output];
            add_products(pool, level, &residual, &x[..width], weight, None, &mut y);
            close(&y, &added, what);

            for index in 0..experts {
                let expert = Expert { experts: of_experts, count: experts, index };
                let expected = sum(&added, &product(pool, level, &x[width..], &expert.weight(), &[1]));
                let mut y = vec![f32::NAN; output];
                add_products(pool, level, &residual, &x, weight, Some(expert), &mut y);
                close(&y, &expected, what);
            }
        });
    }
}
