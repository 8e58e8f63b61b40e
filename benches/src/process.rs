//! What a process costs, as Linux counts it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context;

/// Clock ticks in a second, as /proc reports them on every Linux.
const TICKS: f64 = 100.0;

/// Returns the CPU seconds (user and system) of a process so far, to 10 ms.
pub(crate) fn cpu_seconds(process: &str) -> anyhow::Result<f64> {
    cpu_of(process, [11, 12])
}

/// Returns the sum of two fields of a process's statistics, which count ticks; the field behind its name is number 0.
fn cpu_of(process: &str, fields: [usize; 2]) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The second field is the program's name in brackets, which may hold blanks.
    let all: Vec<&str> = stat.rsplit_once(')').context("read /proc/PID/stat")?.1.split_whitespace().collect();
    let ticks = |field: usize| all.get(field).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    Ok(fields.into_iter().map(ticks).sum::<f64>() / TICKS)
}

/// Returns the CPU seconds of all processes that this one started and waited for, and of theirs, to 10 ms.
pub(crate) fn cpu_seconds_of_ended() -> anyhow::Result<f64> {
    cpu_of("self", [13, 14])
}

/// Returns the largest resident set of a process so far, in bytes.
pub(crate) fn peak_bytes(process: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("find VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// Makes the largest resident set of a process count from now on.
pub(crate) fn forget_peak(process: &str) -> anyhow::Result<()> {
    fs::write(format!("/proc/{process}/clear_refs"), "5").context("reset VmHWM")
}

/// Returns the bytes that a folder takes on the disk, as du counts them.
pub(crate) fn disk_bytes(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            bytes += disk_bytes(&entry.path())?;
        }
    }
    Ok(bytes)
}

/// Returns how many processes want to run, over the last minute, on how many processors.
pub(crate) fn load() -> anyhow::Result<(f64, usize)> {
    let text = fs::read_to_string("/proc/loadavg")?;
    let first = text.split_whitespace().next().context("read /proc/loadavg")?;
    Ok((first.parse()?, std::thread::available_parallelism()?.get()))
}
