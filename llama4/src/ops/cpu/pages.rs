//! Large pages for weights. A decoded token reads each weight once, and for every 4 KiB of it the processor first looks up where they are.

/// Ask the system to hold a weight in large pages, now, where it is. What it holds does not change, and no answer is needed: a system that
/// has none, or has none left, goes on with small ones.
pub(in crate::ops) fn enlarge<T>(weight: &[T]) {
    #[cfg(target_os = "linux")]
    linux::enlarge(weight.as_ptr().addr(), size_of_val(weight));
    let _ = weight;
}

#[cfg(target_os = "linux")]
mod linux {
    /// Bytes of a large page, on x86-64 and with the usual small pages on AArch64.
    const LARGE: usize = 1 << 21;

    /// Weights lie side by side, and a large page may hold the end of one and the beginning of the next: the range is rounded outwards.
    /// Smaller weights are left to what lies around them.
    pub(super) fn enlarge(address: usize, bytes: usize) {
        if bytes < LARGE / 8 {
            return;
        }
        let start = address / LARGE * LARGE;
        let end = (address + bytes).next_multiple_of(LARGE);
        // SAFETY: both kinds of advice leave every byte as it is, whoever's it may be: they only say in which pages the system holds it.
        // Where nothing is mapped, or advice is not known, there is an error, which is of no consequence.
        unsafe {
            let start = std::ptr::without_provenance_mut::<libc::c_void>(start);
            let length = end - start.addr();
            libc::madvise(start, length, libc::MADV_HUGEPAGE);
            // Since Linux 6.1; before, the system comes to it in its own time.
            libc::madvise(start, length, libc::MADV_COLLAPSE);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_held_stays_as_it_is() {
        for count in [0, 7, 1 << 16, 3 << 20] {
            let values: Vec<u32> = (0..count).collect();
            super::enlarge(&values);
            assert!((0..count).eq(values), "{count} values");
        }
    }
}
