//! What the server holds in memory while one very long NAR comes and goes among many slow transfers.

use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::{anyhow, ensure};
use firn_nix::NarInfo;

use super::client::{Connection, Pace};
use super::transfers::{Form, put_narinfo};
use crate::corpus::Entry;
use crate::server::Server;
use crate::synthetic::Synthetic;

/// The seed of the long NAR; those of the others follow.
const SEED: u64 = 1;
/// The contents of each NAR that is uploaded beside the long one.
const SIDE_BYTES: u64 = 64 << 20;
/// How much a slow upload writes at a time.
const WRITE_BYTES: usize = 64 << 10;
/// A slow connection never runs more transfers than this.
const MAX_TRANSFERS: usize = 10_000;
/// How many of the corpus's longest NARs are fetched by the slow connections.
const LONGEST: usize = 48;

/// The long NAR, and what goes on beside it.
pub(crate) struct Crowd<'a> {
    server: &'a Server<'a>,
    cache: &'a str,
    /// What slow connections fetch: the longest ones of the corpus.
    fetched: Vec<&'a NarInfo>,
    /// All connections, the long NAR's included.
    connections: usize,
    bytes_per_second: u64,
    next_seed: AtomicU64,
    /// The long NAR.
    long: Synthetic,
    info: NarInfo,
}

impl<'a> Crowd<'a> {
    /// Prepares a long NAR of so many bytes, for a server that has the corpus in `cache`.
    pub(crate) fn new(
        server: &'a Server<'a>,
        cache: &'a str,
        entries: &'a [Entry],
        contents_bytes: u64,
        connections: usize,
        bytes_per_second: u64,
    ) -> anyhow::Result<Self> {
        let mut fetched: Vec<&NarInfo> = entries.iter().map(|entry| &entry.info).collect();
        fetched.sort_by_key(|info| std::cmp::Reverse(info.nar_size));
        fetched.truncate(LONGEST);
        ensure!(!fetched.is_empty(), "the corpus is empty");
        let long = Synthetic { seed: SEED, contents_bytes };
        let info = long.narinfo()?;
        let next_seed = AtomicU64::new(SEED + 1);
        Ok(Self { server, cache, fetched, connections, bytes_per_second, next_seed, long, info })
    }

    /// Uploads the long NAR; returns its length.
    pub(crate) fn upload(&self) -> anyhow::Result<u64> {
        self.among_others(1, || {
            let mut connection = Connection::open(self.server.address)?;
            let target = Form::Identity.target(self.cache, &self.info);
            connection.put(&target, &self.server.token, self.info.nar_size, &mut |stream| {
                self.long.write(BufWriter::with_capacity(WRITE_BYTES, stream))
            })?;
            put_narinfo(&mut connection, self.server, self.cache, &self.info)?;
            Ok(self.info.nar_size)
        })
    }

    /// Fetches the long NAR in both forms at once; returns its length.
    pub(crate) fn download(&self) -> anyhow::Result<u64> {
        let fetch = |form: Form| Connection::open(self.server.address)?.fetch(&form.target(self.cache, &self.info));
        self.among_others(2, || {
            let identity = thread::scope(|scope| {
                let zstd = scope.spawn(|| fetch(Form::Zstd));
                let identity = fetch(Form::Identity)?;
                zstd.join().map_err(|_| anyhow!("a connection's thread panicked"))??;
                anyhow::Ok(identity)
            })?;
            ensure!(identity == self.info.nar_size, "{identity} bytes came of a NAR of {}", self.info.nar_size);
            Ok(identity)
        })
    }

    /// Runs `run`, which has so many connections of its own, beside slow transfers on all others.
    fn among_others(&self, own: usize, run: impl FnOnce() -> anyhow::Result<u64>) -> anyhow::Result<u64> {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let others = self.connections.saturating_sub(own);
            let stop = &stop;
            let others: Vec<_> =
                (0..others).map(|connection| scope.spawn(move || self.transfer_until(connection, stop))).collect();
            let result = run();
            stop.store(true, Ordering::Relaxed);
            for other in others {
                other.join().map_err(|_| anyhow!("a connection's thread panicked"))??;
            }
            result
        })
    }

    /// Runs slow transfers one after the other: a quarter of the connections uploads, the others fetch in both forms.
    fn transfer_until(&self, number: usize, stop: &AtomicBool) -> anyhow::Result<()> {
        for turn in 0..MAX_TRANSFERS {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let result = match number % 4 {
                0 => self.upload_slowly(stop),
                1 => self.fetch_slowly(number + turn, Form::Identity, stop),
                _ => self.fetch_slowly(number + turn, Form::Zstd, stop),
            };
            if let Err(error) = result
                && !stop.load(Ordering::Relaxed)
            {
                return Err(error.context("in a slow transfer"));
            }
        }
        Ok(())
    }

    fn upload_slowly(&self, stop: &AtomicBool) -> anyhow::Result<()> {
        let seed = self.next_seed.fetch_add(1, Ordering::Relaxed);
        let side = Synthetic { seed, contents_bytes: SIDE_BYTES };
        let info = side.narinfo()?;
        let mut connection = Connection::open(self.server.address)?;
        let mut pace = Pace::new(self.bytes_per_second, stop);
        let target = Form::Identity.target(self.cache, &info);
        connection.put(&target, &self.server.token, info.nar_size, &mut |stream| {
            side.write(BufWriter::with_capacity(WRITE_BYTES, Slow { stream, pace: &mut pace }))
        })?;
        put_narinfo(&mut connection, self.server, self.cache, &info)
    }

    fn fetch_slowly(&self, number: usize, form: Form, stop: &AtomicBool) -> anyhow::Result<()> {
        let info = self.fetched[number % self.fetched.len()];
        let mut connection = Connection::open(self.server.address)?;
        let started = connection.get(&form.target(self.cache, info))?;
        ensure!(started.status == 200, "a NAR is answered with {}", started.status);
        let mut pace = Pace::new(self.bytes_per_second, stop);
        connection.body(started.framing, &mut |piece| pace.pass(piece.len()))?;
        Ok(())
    }
}

/// Writes at a pace.
struct Slow<'a, 'b, W> {
    stream: W,
    pace: &'a mut Pace<'b>,
}

impl<W: Write> Write for Slow<'_, '_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.stream.write(bytes)?;
        self.pace.pass(written)?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
