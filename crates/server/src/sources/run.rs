//! A sync under way: how far it is, how fast it may be, and how it is stopped.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use firn_index::SourceCounts;
use tokio_util::sync::CancellationToken;

/// Sleep that is saved up before it is taken.
const SHORTEST_SLEEP: Duration = Duration::from_millis(20);

/// What a sync, those who watch it and those who stop it share.
#[derive(Debug, Default)]
pub struct Run {
    state: Mutex<State>,
    changed: Condvar,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    is_stopped: bool,
    progress: Progress,
    /// Connections to be broken when it is stopped.
    streams: Vec<UnixStream>,
    /// When the rate began to count, and the bytes since.
    since: Option<Instant>,
    paced_bytes: u64,
}

/// How far a sync is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// What it does.
    pub doing: &'static str,
    /// What was done so far.
    pub counts: SourceCounts,
    /// Paths that are known to be wanted and have not come yet.
    pub waiting_paths: u64,
    /// Their NAR bytes.
    pub waiting_bytes: u64,
}

impl Run {
    /// Tells the sync to stop; it does at once.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.is_stopped = true;
        for stream in state.streams.drain(..) {
            // One that is closed already is what we want.
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.stop.cancel();
        self.changed.notify_all();
    }

    /// Waits until it is to stop.
    pub(super) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Returns whether it is to stop.
    pub fn is_stopped(&self) -> bool {
        self.lock().is_stopped
    }

    /// Returns how far it is.
    pub fn progress(&self) -> Progress {
        self.lock().progress
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.lock().progress);
    }

    /// Has a connection broken when the sync is stopped.
    pub(super) fn break_with(&self, stream: &UnixStream) {
        let mut state = self.lock();
        if state.is_stopped {
            let _ = stream.shutdown(Shutdown::Both);
        } else if let Ok(stream) = stream.try_clone() {
            // A sync has a few connections at a time; those that came before them are closed.
            let surplus = state.streams.len().saturating_sub(256);
            state.streams.drain(..surplus);
            state.streams.push(stream);
        }
    }

    /// Counts bytes that came, and waits until more may come; returns whether to go on.
    fn pace(&self, bytes: u64, rate: Option<u64>) -> bool {
        let mut state = self.lock();
        state.progress.counts.nar_bytes = state.progress.counts.nar_bytes.saturating_add(bytes);
        let Some(rate) = rate else { return !state.is_stopped };
        state.paced_bytes = state.paced_bytes.saturating_add(bytes);
        let since = *state.since.get_or_insert_with(Instant::now);
        let due = due(state.paced_bytes, rate);
        loop {
            let rest = due.saturating_sub(since.elapsed());
            if state.is_stopped || rest < SHORTEST_SLEEP {
                return !state.is_stopped;
            }
            state = self.changed.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns how long so many bytes take at least.
fn due(bytes: u64, rate: u64) -> Duration {
    Duration::from_secs_f64((bytes as f64 / rate.max(1) as f64).min(1e9))
}

/// Passes bytes on at the sync's rate, and fails when it is stopped.
pub(super) struct Paced<'a> {
    pub(super) run: &'a Run,
    pub(super) rate: Option<u64>,
    pub(super) to: &'a mut dyn Write,
}

impl Write for Paced<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.run.pace(bytes.len() as u64, self.rate) {
            return Err(io::Error::other("the sync was stopped"));
        }
        self.to.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_bytes_by_time() {
        assert_eq!(due(1000, 500), Duration::from_secs(2));
        assert_eq!(due(0, 500), Duration::ZERO);
        assert_eq!(due(u64::MAX, 0), Duration::from_secs(1_000_000_000));
    }

    #[test]
    fn who_is_stopped_neither_waits_nor_goes_on() {
        let (run, mut out) = (Run::default(), Vec::new());
        Paced { run: &run, rate: None, to: &mut out }.write_all(b"some").unwrap();
        assert_eq!(run.progress().counts.nar_bytes, 4);
        run.stop();
        // At this rate the bytes would take a year.
        assert!(Paced { run: &run, rate: Some(1), to: &mut out }.write_all(&[0; 40_000_000]).is_err());
        assert_eq!(out, b"some");
        let (ours, _theirs) = UnixStream::pair().unwrap();
        run.break_with(&ours);
        assert!((&ours).write(b"x").is_err(), "a connection that comes too late is broken at once");
    }
}
