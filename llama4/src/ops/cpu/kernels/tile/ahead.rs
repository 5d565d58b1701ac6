/// Bytes that are read soon: asked for while something else is computed, since the processor does not look from one panel to the next.
#[derive(Debug, Clone, Copy, Default)]
pub(in super::super) struct Ahead<'a>(&'a [u8]);

/// What the processor fetches at once.
const LINE: usize = 64;

impl<'a> Ahead<'a> {
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
        let lines = self.0.len().div_ceil(LINE * steps);
        for line in step * lines..(step + 1) * lines {
            if let Some(byte) = self.0.get(line * LINE) {
                fetch(byte);
            }
        }
    }
}

#[inline(always)]
fn fetch(byte: &u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction, which changes nothing.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(std::ptr::from_ref(byte).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = byte;
}
