//! The host's memory.

/// What programs may still take, the control group's limit respected.
pub(crate) fn host_free() -> Option<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let free = system.available_memory();
    let limit = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    (free > 0).then(|| free.min(limit))
}
