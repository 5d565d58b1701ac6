//! The allocator of the programs. A decoded token allocates thousands of small pieces: on a GPU, an eighth of what a launch costs the host was
//! in glibc's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;

use mimalloc::MiMalloc;

/// From this size on the system allocates: weights, and what is left of loading them, which goes back at once. mimalloc would keep it for a
/// while, and holds what it has in large pages.
const LARGE: usize = 64 << 10;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Two allocators, told apart by the size of what is allocated.
struct Allocator;

fn is_large(size: usize) -> bool {
    size >= LARGE
}

// SAFETY: whoever frees or resizes says with which layout it was allocated, so what one of the two has allocated never gets to the other.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { if is_large(layout.size()) { System.alloc(layout) } else { MiMalloc.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { if is_large(layout.size()) { System.alloc_zeroed(layout) } else { MiMalloc.alloc_zeroed(layout) } }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise; the size says who has allocated it.
        unsafe {
            if is_large(layout.size()) { System.dealloc(pointer, layout) } else { MiMalloc.dealloc(pointer, layout) }
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise; the size says who has allocated it. Between the two, both places are as long as what is copied, and
        // neither the size nor its rounding up overflows, as the caller promises.
        unsafe {
            match (is_large(layout.size()), is_large(size)) {
                (true, true) => System.realloc(pointer, layout, size),
                (false, false) => MiMalloc.realloc(pointer, layout, size),
                _ => {
                    let moved = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
                    if !moved.is_null() {
                        ptr::copy_nonoverlapping(pointer, moved, layout.size().min(size));
                        self.dealloc(pointer, layout);
                    }
                    moved
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::LARGE;

    #[test]
    fn what_grows_and_shrinks_past_the_limit_keeps_its_values() {
        let mut values: Vec<u64> = (0..1000).collect();
        values.reserve_exact(LARGE / 8);
        assert!(values.iter().copied().eq(0..1000));
        values.resize(LARGE / 8 + 5, 7);
        values.reserve_exact(LARGE);
        values.truncate(2000);
        values.shrink_to_fit();
        assert!(values[..1000].iter().copied().eq(0..1000) && values[1000..].iter().all(|value| *value == 7));
        assert_eq!(values.len(), 2000);
    }
}
