use std::marker::PhantomData;

/// A slice that tasks write to at the same time, each to places of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share<'a, T> {
    values: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: it is only a place; who writes promises that nobody else does.
unsafe impl<T: Send> Send for Share<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Share<'_, T> {}

impl<'a, T: Copy> Share<'a, T> {
    pub(super) fn new(values: &'a mut [T]) -> Self {
        Self { values: values.as_mut_ptr(), len: values.len(), lifetime: PhantomData }
    }

    /// Write one value.
    ///
    /// # Safety
    /// No other thread reads or writes it meanwhile.
    pub(super) unsafe fn set(&self, at: usize, value: T) {
        assert!(at < self.len, "{at} is beyond {}", self.len);
        // SAFETY: within the slice, and ours alone.
        unsafe { *self.values.add(at) = value };
    }

    /// Part of the slice.
    ///
    /// # Safety
    /// No other thread reads or writes it meanwhile, and this one has it once.
    #[allow(clippy::mut_from_ref, reason = "what makes it sound is the caller's promise")]
    pub(super) unsafe fn part(&self, at: usize, len: usize) -> &mut [T] {
        assert!(at <= self.len && len <= self.len - at, "{at}..{at} + {len} is beyond {}", self.len);
        // SAFETY: within the slice, and ours alone.
        unsafe { std::slice::from_raw_parts_mut(self.values.add(at), len) }
    }
}
