/// The value of an `f16`, in integer operations and a product that become vectors; `half`'s own looks for instructions each time. Infinities
/// are taken for large numbers.
#[inline(always)]
pub(super) fn f16_to_f32(bits: u16) -> f32 {
    let magnitude = f32::from_bits(u32::from(bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    f32::from_bits(magnitude.to_bits() | u32::from(bits & 0x8000) << 16)
}
