//! What well-known work costs here and now: a busy neighbour makes each CPU second do less, and other figures can be
//! compared with these.

use std::hint::black_box;

use firn_nix::Sha256;

use crate::process::{self, cpu_seconds};
use crate::synthetic::Synthetic;

/// What is worked on: longer than the processor's caches.
const NAR: Synthetic = Synthetic { seed: 0, contents_bytes: 128 << 20 };
/// How often it is hashed: that is quick, and CPU time is counted in 10 ms.
const HASHES: u32 = 4;

/// CPU seconds for a gigabyte.
struct Yardstick {
    /// Of SHA-256, which hardly needs memory.
    sha256: f64,
    /// Of zstd at level 3, which does.
    zstd: f64,
}

/// Prints what helps to compare figures of different machines and hours. It takes 256 MiB of memory for a while.
pub(crate) fn print_circumstances(when: &str) -> anyhow::Result<()> {
    let (load, processors) = process::load()?;
    let Yardstick { sha256, zstd } = measure()?;
    println!(
        "{when}: load average {load} on {processors} processors; in CPU-s/GB, SHA-256 takes {sha256:.2} and zstd {zstd:.2}\n"
    );
    Ok(())
}

/// Measures both; takes about two seconds.
fn measure() -> anyhow::Result<Yardstick> {
    let mut nar = Vec::new();
    NAR.write(&mut nar)?;
    let gigabytes = nar.len() as f64 / 1e9;
    let before = cpu_seconds("self")?;
    for _ in 0..HASHES {
        black_box(Sha256::of(black_box(&nar)));
    }
    let middle = cpu_seconds("self")?;
    black_box(zstd::bulk::compress(black_box(&nar), 3)?);
    let after = cpu_seconds("self")?;
    Ok(Yardstick { sha256: (middle - before) / gigabytes / f64::from(HASHES), zstd: (after - middle) / gigabytes })
}
