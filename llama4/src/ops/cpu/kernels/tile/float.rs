//! The tile of floats in registers: all sums of it at once, each multiplied value of a panel used for every row of activations.

macro_rules! float_tile {
    ($module:ident, $features:literal, $lanes:literal, $zero:ident, $load:ident, $set1:ident, $fma:ident, $store:ident, [$($rows:literal)*]) => {
        pub(super) mod $module {
            use std::arch::x86_64::{$zero, $load, $set1, $fma, $store};

            use super::super::Sums;

            /// # Safety
            /// The processor must have the instructions; `depth` columns of two vectors, `stride` values apart, and `depth` times `rows` values of `x`
            /// can be read; `rows` is one of those that there are.
            pub(in super::super) unsafe fn tile(
                panel: *const f32,
                stride: usize,
                depth: usize,
                x: *const f32,
                rows: usize,
                sums: &mut Sums,
            ) {
                match rows {
                    // SAFETY: as above.
                    $($rows => unsafe { of_rows::<$rows>(panel, stride, depth, x, sums) },)*
                    _ => unreachable!("a tile of so many rows"),
                }
            }

            /// # Safety
            /// As [`tile`], of `ROWS` rows.
            #[target_feature(enable = $features)]
            unsafe fn of_rows<const ROWS: usize>(
                panel: *const f32,
                stride: usize,
                depth: usize,
                x: *const f32,
                sums: &mut Sums,
            ) {
                let mut found = [[$zero(); 2]; ROWS];
                for at in 0..depth {
                    // SAFETY: column `at` of the panel and of `x`.
                    unsafe {
                        let column = panel.add(at * stride);
                        let (low, high) = ($load(column), $load(column.add($lanes)));
                        for row in 0..ROWS {
                            let x = $set1(*x.add(at * ROWS + row));
                            found[row][0] = $fma(low, x, found[row][0]);
                            found[row][1] = $fma(high, x, found[row][1]);
                        }
                    }
                }
                for row in 0..ROWS {
                    // SAFETY: a row of sums is as wide as the widest panel.
                    unsafe {
                        $store(sums[row].as_mut_ptr(), found[row][0]);
                        $store(sums[row].as_mut_ptr().add($lanes), found[row][1]);
                    }
                }
            }
        }
    };
}

float_tile!(
    avx2,
    "avx2,fma",
    8,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_set1_ps,
    _mm256_fmadd_ps,
    _mm256_storeu_ps,
    [1 2 3 4 5 6]
);

float_tile!(
    avx512,
    "avx512f",
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps,
    _mm512_storeu_ps,
    [1 2 3 4 5 6 7 8 9 10 11 12]
);
