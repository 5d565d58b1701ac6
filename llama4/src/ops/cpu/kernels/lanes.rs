/// Running sums that are kept apart, so that the compiler can make vectors of them.
pub(super) const LANES: usize = 32;

/// Their sum, by halves: one after the other would take longer than a short row's products.
#[inline(always)]
pub(super) fn fold(mut sums: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}
