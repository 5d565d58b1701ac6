/// A cache line, which vectors of any width are aligned to.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u32; 16]);

/// Words in memory that begins with a cache line, kept from one use to the next.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<Line>);

impl Lines {
    /// Room for `words`, whose contents are whatever was there.
    pub(super) fn words(&mut self, words: usize) -> &mut [u32] {
        let lines = words.div_ceil(16);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0; 16]));
        }
        &mut bytemuck::cast_slice_mut(&mut self.0)[..words]
    }

    /// What [`Self::words`] gave room for.
    pub(super) fn held(&self) -> &[u32] {
        bytemuck::cast_slice(&self.0)
    }
}
