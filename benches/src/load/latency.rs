//! Single requests in a closed loop: each connection sends the next one when it has the answer to the last.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use firn_nix::{Sha256, StoreHash};

use super::client::{Connection, Started};
use super::transfers::{Form, each};
use crate::corpus::Entry;
use crate::report::Latencies;
use crate::server::Server;

/// Which narinfos are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Those that are known, one after the other, again and again.
    Known,
    /// Each one another that no cache has.
    Unknown,
}

/// NARs up to this length are read to their end, so that the connection is kept; longer ones are broken off.
const READ_BYTES: u64 = 4 << 20;

/// Asks for so many narinfos over so many connections; a tenth more come first and are not counted.
///
/// `round` makes unknown paths of one call differ from those of others.
pub(crate) fn narinfos(
    server: &Server<'_>,
    cache: &str,
    known: &[StoreHash],
    asked: Asked,
    connections: usize,
    requests: usize,
    round: u64,
) -> anyhow::Result<Latencies> {
    let per_connection = requests.div_ceil(connections);
    let warm_up = per_connection / 10;
    let number = AtomicUsize::new(0);
    let all = Mutex::new(Vec::with_capacity(per_connection * connections));
    let workers: Vec<usize> = (0..connections).collect();
    each(server, &workers, connections, |connection, _| {
        let mut times = Vec::with_capacity(per_connection);
        for request in 0..warm_up + per_connection {
            let (hash, status) = path(known, asked, number.fetch_add(1, Ordering::Relaxed), round)?;
            let target = format!("/{cache}/{hash}.narinfo");
            let started = connection.get(&target)?;
            connection.body(started.framing, &mut |_| Ok(()))?;
            ensure!(started.status == status, "GET {target} is answered with {}", started.status);
            if request >= warm_up {
                times.push(started.first_byte);
            }
        }
        all.lock().expect("nobody panics with the lock").append(&mut times);
        Ok(0)
    })?;
    Ok(Latencies::new(all.into_inner().expect("nobody panics with the lock")))
}

/// Returns how many requests [`narinfos`] sends, with those that are not counted.
pub(crate) fn sent(connections: usize, requests: usize) -> usize {
    let per_connection = requests.div_ceil(connections);
    (per_connection + per_connection / 10) * connections
}

fn path(known: &[StoreHash], asked: Asked, number: usize, round: u64) -> anyhow::Result<(StoreHash, u16)> {
    match asked {
        Asked::Known => {
            let hash = known.get(number % known.len().max(1)).context("the corpus is empty")?;
            Ok((*hash, 200))
        }
        Asked::Unknown => {
            let hash = Sha256::of(format!("unknown {round} {number}").as_bytes());
            let hash = hash.0.first_chunk().context("a hash is longer than 20 bytes")?;
            Ok((StoreHash(*hash), 404))
        }
    }
}

/// Times to the first byte of NARs.
pub(crate) struct FirstBytes {
    /// Of NARs that were not asked for just before: the system has the packs in memory, the server not their frames.
    pub(crate) first: Latencies,
    /// Of the same NARs, asked for again at once.
    pub(crate) again: Latencies,
}

/// Asks for NARs all over the corpus in one form, on one connection, each `1 + repeats` times in a row.
pub(crate) fn first_bytes(
    server: &Server<'_>,
    cache: &str,
    entries: &[Entry],
    form: Form,
    samples: usize,
    repeats: usize,
) -> anyhow::Result<FirstBytes> {
    let mut connection = Connection::open(server.address)?;
    let (mut first, mut again) = (Vec::new(), Vec::new());
    let samples = samples.min(entries.len());
    for entry in (0..samples).filter_map(|sample| entries.get(sample * entries.len() / samples)) {
        let target = form.target(cache, &entry.info);
        let poke = format!("/{cache}/nix-cache-info");
        // The server's threads are awake and the connection has its buffers, as in the middle of a client's work.
        connection.fetch(&poke)?;
        first.push(first_byte(&mut connection, &target, entry.info.nar_size, &poke)?);
        for _ in 0..repeats {
            again.push(first_byte(&mut connection, &target, entry.info.nar_size, &poke)?);
        }
    }
    Ok(FirstBytes { first: Latencies::new(first), again: Latencies::new(again) })
}

fn first_byte(connection: &mut Connection, target: &str, nar_size: u64, poke: &str) -> anyhow::Result<Duration> {
    let Started { status, framing, first_byte } = connection.get(target)?;
    ensure!(status == 200, "GET {target} is answered with {status}");
    if nar_size <= READ_BYTES {
        connection.body(framing, &mut |_| Ok(()))?;
    } else {
        connection.reopen()?;
        connection.fetch(poke)?;
    }
    Ok(first_byte)
}
