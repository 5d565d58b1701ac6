use super::level::Level;

/// The value of an `f16`, in integer operations and a product that become vectors; `half`'s own looks for instructions each time. Infinities
/// are taken for large numbers.
#[inline(always)]
pub(super) fn f16_to_f32(bits: u16) -> f32 {
    let magnitude = f32::from_bits(u32::from(bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    f32::from_bits(magnitude.to_bits() | u32::from(bits & 0x8000) << 16)
}

/// The values of `f16` that are finite.
pub(super) fn to_floats(level: Level, halves: &[u16], floats: &mut [f32]) {
    assert_eq!(halves.len(), floats.len());
    #[cfg(target_arch = "x86_64")]
    let done = match level {
        Level::Portable => 0,
        // SAFETY: every other level of this target has F16C; there are as many halves as floats.
        _ => unsafe { f16c(halves, floats) },
    };
    #[cfg(not(target_arch = "x86_64"))]
    let done = 0;
    let _ = level;
    for (float, &bits) in floats[done..].iter_mut().zip(&halves[done..]) {
        *float = f16_to_f32(bits);
    }
}

/// Eight at a time; how many were done.
///
/// # Safety
/// The processor must have F16C.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx,f16c")]
unsafe fn f16c(halves: &[u16], floats: &mut [f32]) -> usize {
    use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};

    let (halves, floats) = (halves.as_chunks::<8>().0, floats.as_chunks_mut::<8>().0);
    for (halves, floats) in halves.iter().zip(&mut *floats) {
        // SAFETY: eight of each.
        unsafe { _mm256_storeu_ps(floats.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(halves.as_ptr().cast()))) };
    }
    8 * halves.len().min(floats.len())
}
