//! The allocator of the programs. A decoded token allocates thousands of times: small pieces for each launch on a GPU, where an eighth of the
//! host's time was in glibc's; results of some hundred KiB on a CPU, which glibc takes from the system anew each time, page by page.

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;
