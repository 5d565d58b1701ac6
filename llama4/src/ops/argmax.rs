use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};

use super::dispatch;

/// Index of the largest value of each row.
///
/// # Shapes
/// - x: `[rows, columns]`
/// - output: `[rows, 1]`
pub fn argmax<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2, Int> {
    match dispatch::argmax(&x) {
        Some(places) => places,
        None => x.argmax(1),
    }
}
