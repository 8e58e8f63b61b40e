//! The program `firnd`; everything is in the library.

use std::process::ExitCode;

/// RocksDB's many small, long-lived allocations fragment glibc's allocator; C++ shares this one.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How jemalloc is set: it reads this name when it starts, and `MALLOC_CONF` of the environment after it.
///
/// Frames and bodies are buffers of 1 to 8 MiB that one thread fills and another drops. Of its own accord jemalloc has four
/// arenas for each processor, each with free buffers that threads of the others can't have, and gives back at once what has
/// 8 MiB: pushes of new data then took 60 MiB more memory, and faulted in half as many pages again. Two are enough: threads have
/// small things from caches of their own, and lock an arena a few times in half a millisecond of work on a frame.
#[expect(unsafe_code, reason = "jemalloc only reads it, as text that ends with a zero byte")]
#[unsafe(export_name = "malloc_conf")]
pub static MALLOC_CONF: &[u8] = b"narenas:2,oversize_threshold:0\0";

fn main() -> ExitCode {
    firn_server::cli::main(std::env::args_os())
}
