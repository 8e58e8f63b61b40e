//! The program `firnd`; everything is in the library.

use std::process::ExitCode;

/// RocksDB's many small, long-lived allocations fragment glibc's allocator; C++ shares this one.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    firn_server::cli::main(std::env::args_os())
}
