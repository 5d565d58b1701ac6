/// Bytes that are read soon: asked for while something else is computed, since the processor does not look from one panel to the next.
#[derive(Debug, Clone, Copy, Default)]
pub(in super::super) struct Ahead<'a>(&'a [u8]);

impl<'a> Ahead<'a> {
    /// What the processor fetches at once.
    pub(in super::super) const LINE: usize = 64;

    pub(in super::super) fn new(words: &'a [u32]) -> Self {
        Self(bytemuck::cast_slice(words))
    }

    /// One of `parts` nearly equal parts.
    pub(in super::super) fn part(self, part: usize, parts: usize) -> Self {
        Self(&self.0[self.0.len() * part / parts..self.0.len() * (part + 1) / parts])
    }

    /// Ask for one of `steps` parts of it.
    #[inline(always)]
    pub(in super::super) fn ask(self, step: usize, steps: usize) {
        let lines = self.0.len().div_ceil(Self::LINE * steps);
        for line in step * lines..(step + 1) * lines {
            if let Some(byte) = self.0.get(line * Self::LINE) {
                Self::fetch(byte);
            }
        }
    }

    /// Ask for the line that a byte is on, which need not be there.
    #[inline(always)]
    pub(in super::super) fn fetch(byte: *const u8) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every x86-64 processor has the instruction, which changes nothing and does not fail wherever it points.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(byte.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = byte;
    }
}
