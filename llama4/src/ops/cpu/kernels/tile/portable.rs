use super::Sums;

/// As [`float_tile`](super::float_tile), in whatever vectors the target's baseline has.
pub(super) fn float_tile(values: &[f32], stride: usize, x: &[f32], rows: usize, sums: &mut Sums) {
    const WIDTH: usize = 16;
    for (row, sums) in sums.iter_mut().enumerate().take(rows) {
        let mut found = [0.0_f32; WIDTH];
        for (values, x) in values.chunks(stride).zip(x[row..].iter().step_by(rows)) {
            for (sum, value) in found.iter_mut().zip(&values[..WIDTH]) {
                *sum += value * x;
            }
        }
        sums[..WIDTH].copy_from_slice(&found);
    }
}
