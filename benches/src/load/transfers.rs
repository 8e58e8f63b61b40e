//! Whole NARs in and out, over one connection or several.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Seek};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use firn_nix::{Compression, NarInfo, StorePath};

use super::client::{Connection, Framing};
use crate::corpus::Entry;
use crate::server::Server;
use crate::synthetic::Tally;

/// The store directory of all corpora.
pub(crate) const STORE_DIR: &str = "/nix/store";
/// How long an upload waits for one of its references to be uploaded by another connection.
const REFERENCE_PATIENCE: Duration = Duration::from_secs(600);

/// The forms in which NARs are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As they were uploaded.
    Identity,
    /// As zstd frames.
    Zstd,
}

impl Form {
    /// Returns its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Zstd => "zstd",
        }
    }

    /// Returns where a NAR is in a cache.
    pub(crate) fn target(self, cache: &str, info: &NarInfo) -> String {
        let extension = if self == Self::Zstd { ".zst" } else { "" };
        format!("/{cache}/nar/{}.nar{extension}", info.nar_hash.to_nix32())
    }
}

/// Runs `run` on each item in order, over so many connections at once; the first failure ends all.
pub(crate) fn each<T: Sync>(
    server: &Server<'_>,
    items: &[T],
    connections: usize,
    run: impl Fn(&mut Connection, &T) -> anyhow::Result<u64> + Sync,
) -> anyhow::Result<u64> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        let mut connection = Connection::open(server.address)?;
        let mut sum = 0;
        while !failed.load(Ordering::Relaxed) {
            let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            match run(&mut connection, item) {
                Ok(count) => sum += count,
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        Ok(sum)
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..connections).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().map_err(|_| anyhow!("a connection's thread panicked"))?).sum()
    })
}

/// Uploads all paths of a corpus: each NAR, then its narinfo once all its references are there.
pub(crate) fn upload(server: &Server<'_>, cache: &str, entries: &[Entry], connections: usize) -> anyhow::Result<u64> {
    let known: HashSet<&StorePath> = entries.iter().map(|entry| &entry.info.store_path).collect();
    let done = Done::default();
    each(server, entries, connections, |connection, entry| {
        let guard = FailOnDrop { done: &done, armed: true };
        let mut file = File::open(&entry.nar).with_context(|| format!("open {}", entry.nar.display()))?;
        ensure!(file.metadata()?.len() == entry.info.nar_size, "{} is not an uncompressed NAR", entry.nar.display());
        let target = Form::Identity.target(cache, &entry.info);
        connection.put(&target, &server.token, entry.info.nar_size, &mut |stream| {
            file.rewind()?;
            // The kernel copies it: our own CPU is the server's too, on a small machine.
            io::copy(&mut file, stream).map(|_| ())
        })?;
        for reference in entry.info.references.iter().filter(|path| known.contains(path)) {
            if *reference != entry.info.store_path {
                done.wait_for(reference)?;
            }
        }
        put_narinfo(connection, server, cache, &entry.info)?;
        done.add(entry.info.store_path.clone());
        guard.disarm();
        Ok(entry.info.nar_size)
    })
}

/// Uploads the narinfo of a NAR that is there, uncompressed.
pub(crate) fn put_narinfo(
    connection: &mut Connection,
    server: &Server<'_>,
    cache: &str,
    info: &NarInfo,
) -> anyhow::Result<()> {
    let mut info = info.clone();
    info.url = format!("nar/{}.nar", info.nar_hash.to_nix32());
    info.compression = Compression::None;
    let text = info.to_text(STORE_DIR);
    let target = format!("/{cache}/{}.narinfo", info.store_path.hash());
    connection
        .put(&target, &server.token, text.len() as u64, &mut |stream| io::Write::write_all(stream, text.as_bytes()))
}

/// Fetches all NARs of a corpus in one form and drops them; returns the bytes of the bodies.
pub(crate) fn download(
    server: &Server<'_>,
    cache: &str,
    entries: &[Entry],
    connections: usize,
    form: Form,
) -> anyhow::Result<u64> {
    each(server, entries, connections, |connection, entry| {
        let bytes = connection.fetch(&form.target(cache, &entry.info))?;
        let nar_size = entry.info.nar_size;
        ensure!(form == Form::Zstd || bytes == nar_size, "{bytes} bytes came of a NAR of {nar_size}");
        Ok(bytes)
    })
}

/// Fetches all NARs of a corpus in both forms and compares them with their hashes.
pub(crate) fn check(server: &Server<'_>, cache: &str, entries: &[Entry]) -> anyhow::Result<u64> {
    each(server, entries, 2, |connection, entry| {
        for form in [Form::Identity, Form::Zstd] {
            let target = form.target(cache, &entry.info);
            let started = connection.get(&target)?;
            ensure!(started.status == 200, "GET {target} is answered with {}", started.status);
            let found = hash_body(connection, started.framing, form)?;
            let expected = (entry.info.nar_hash, entry.info.nar_size);
            ensure!(found == expected, "GET {target} gives another NAR: {found:?}");
        }
        Ok(1)
    })
}

/// Reads a body and returns the hash and length of the NAR in it.
fn hash_body(connection: &mut Connection, framing: Framing, form: Form) -> anyhow::Result<(firn_nix::Sha256, u64)> {
    let mut tally = Tally::default();
    match form {
        Form::Identity => {
            connection.body(framing, &mut |piece| io::Write::write_all(&mut tally, piece))?;
        }
        Form::Zstd => {
            let mut decoder = zstd::stream::write::Decoder::new(&mut tally)?;
            connection.body(framing, &mut |piece| io::Write::write_all(&mut decoder, piece))?;
            io::Write::flush(&mut decoder)?;
        }
    }
    Ok(tally.finish())
}

/// The paths that were uploaded so far.
#[derive(Default)]
struct Done {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    paths: HashSet<StorePath>,
    failed: bool,
}

impl Done {
    fn add(&self, path: StorePath) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).paths.insert(path);
        self.changed.notify_all();
    }

    fn fail(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failed = true;
        self.changed.notify_all();
    }

    /// Waits for a path. Uploads are begun in an order in which references come first, so the first one never waits.
    fn wait_for(&self, path: &StorePath) -> anyhow::Result<()> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = |state: &mut State| !state.failed && !state.paths.contains(path);
        let waited = self.changed.wait_timeout_while(state, REFERENCE_PATIENCE, waiting);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        ensure!(state.paths.contains(path), "{path} was not uploaded, which others refer to");
        Ok(())
    }
}

/// Lets nobody wait for an upload that failed.
struct FailOnDrop<'a> {
    done: &'a Done,
    armed: bool,
}

impl FailOnDrop<'_> {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for FailOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.done.fail();
        }
    }
}
