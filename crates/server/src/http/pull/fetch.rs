//! One NAR that is being fetched: once, for all who want it, and whether they stay or not.

use std::io::Read;
use std::sync::{Arc, OnceLock};

use firn_chunk::Input;
use firn_engine::{Ingest, Ingested, PathOutcome, PathUpload, TransportEncoder, TransportPiece};
use firn_index::{CacheName, Uploader};
use firn_nix::{NarInfo, Sha256};
use http::HeaderMap;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::answers::Offer;
use super::spool::Spool;
use super::way::Way;
use crate::app::App;
use crate::binary_cache::NarFile;
use crate::caches::Cache;
use crate::http::codec::{Codec, decoder};
use crate::http::error::{After, Problem};
use crate::http::receive::{Incoming, Reader};
use crate::http::{failed, work};
use crate::usage::counters::add;

/// What every NAR begins with.
const NAR_MAGIC: &[u8] = b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0";

/// How far a fetch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing has come yet.
    Begun,
    /// A NAR is coming.
    Running,
    /// All of it is here, and is what upstream signed. It may not be stored yet.
    Whole,
    /// The cache has it: it is to be read from there.
    Here,
    /// There is no room for it, or there are too many others.
    Crowded,
    /// It did not come, or not whole, or was something else. What clients have got is to be broken off.
    Failed,
}

/// How much of it is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) state: State,
    /// Bytes of the NAR.
    pub(super) raw_bytes: u64,
    /// Bytes of its zstd form.
    pub(super) encoded_bytes: u64,
}

/// A NAR that is being fetched.
pub(super) struct Fetch {
    pub(super) cache: CacheName,
    pub(super) nar_hash: Sha256,
    pub(super) nar_size: u64,
    /// How upstream is asked.
    way: Way,
    /// There once something has come.
    spool: OnceLock<Spool>,
    progress: watch::Sender<Progress>,
    /// Room in the folder of spools; given back when the last client is done.
    room: OnceLock<OwnedSemaphorePermit>,
}

impl Fetch {
    pub(super) fn new(cache: &Cache, offer: &Offer, way: Way) -> Self {
        let begun = Progress { state: State::Begun, raw_bytes: 0, encoded_bytes: 0 };
        Self {
            cache: cache.name.clone(),
            nar_hash: offer.info.nar_hash,
            nar_size: offer.info.nar_size,
            way,
            spool: OnceLock::new(),
            progress: watch::Sender::new(begun),
            room: OnceLock::new(),
        }
    }

    /// Gives it its room.
    pub(super) fn take_room(&self, room: OwnedSemaphorePermit) {
        // Only its own task does, once.
        let _ = self.room.set(room);
    }

    /// Returns what tells of every step.
    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Returns what has come; an error before anything has.
    pub(super) fn spool(&self) -> std::io::Result<&Spool> {
        self.spool.get().ok_or_else(|| std::io::Error::other("a NAR is read before it came"))
    }

    pub(super) fn set(&self, state: State) {
        self.progress.send_modify(|progress| progress.state = state);
    }

    /// Returns whether nothing more will come of it.
    pub(super) fn has_failed(&self) -> bool {
        self.progress.borrow().state == State::Failed
    }

    /// Ends it, unless it came to a good end.
    pub(super) fn fail(&self) {
        self.progress.send_if_modified(|progress| {
            let is_open = matches!(progress.state, State::Begun | State::Running);
            if is_open {
                progress.state = State::Failed;
            }
            is_open
        });
    }

    fn publish(&self, frame: &[u8], raw_bytes: u64, state: State) -> Result<(), Problem> {
        let added = self.spool().and_then(|spool| spool.append(frame));
        let encoded_bytes = added.map_err(|error| Problem::internal(&error, After::Headers))?;
        self.progress.send_replace(Progress { state, raw_bytes, encoded_bytes });
        Ok(())
    }
}

/// Fetches a NAR and makes its path visible. The outcome is told by the fetch's progress.
pub(super) async fn run(app: &Arc<App>, cache: &Arc<Cache>, offer: &Arc<Offer>, fetch: &Arc<Fetch>) {
    if let Err(problem) = get(app, cache, offer, fetch).await {
        let path = &offer.info.store_path;
        tracing::warn!(cache = %cache.name, %path, upstream = offer.upstream.row.url, %problem, "a path could not be fetched");
    }
    fetch.fail();
}

async fn get(app: &Arc<App>, cache: &Arc<Cache>, offer: &Arc<Offer>, fetch: &Arc<Fetch>) -> Result<(), Problem> {
    let (shared, of, wanted) = (Arc::clone(app), Arc::clone(cache), Arc::clone(offer));
    if work(app, After::Headers, move || is_here(&shared, &of, &wanted)).await? {
        fetch.set(State::Here);
        return Ok(());
    }
    let hash = offer.info.store_path.hash();
    let file = match offer.upstream.nar(&offer.info, app.now(), &fetch.way.via).await {
        Ok(Some(file)) => file,
        Ok(None) => {
            app.http.pull.answers.refute(cache, &hash, app.now());
            return Err(Problem::NotFound("the NAR"));
        }
        Err(error) => {
            if !error.is_outage() {
                app.http.pull.answers.refute(cache, &hash, app.now());
            }
            return Err(Problem::NotFound("an answer of the upstream"));
        }
    };
    let result = take_file(app, cache, offer, fetch, file).await;
    match &result {
        Ok(()) | Err(Problem::Internal(_) | Problem::StorageFull(_)) => {}
        Err(Problem::BrokenOff | Problem::Stalled) => offer.upstream.broke_off(app.now()),
        // Nobody will like it better the next time.
        Err(_) => app.http.pull.answers.refute(cache, &hash, app.now()),
    }
    result
}

async fn take_file(
    app: &Arc<App>,
    cache: &Arc<Cache>,
    offer: &Arc<Offer>,
    fetch: &Arc<Fetch>,
    file: NarFile,
) -> Result<(), Problem> {
    let (codec, body, idle) = (file.codec, file.body, file.idle);
    let mut body = Incoming::new(body, &HeaderMap::new(), idle);
    let limit = super::super::upload::file_limit(offer.info.nar_size);
    let (shared, of) = (Arc::clone(app), Arc::clone(cache));
    let (wanted, filled) = (Arc::clone(offer), Arc::clone(fetch));
    let result = body
        .feed(limit, move |reader| {
            let ingested = take(&shared, &wanted, &filled, codec, reader)?;
            commit(&shared, &of, &wanted, ingested)
        })
        .await;
    add(&offer.upstream.counters.received_bytes, body.received());
    let tally = app.usage.counters.of(&cache.name, &offer.upstream.builder());
    add(&tally.received_bytes, body.received());
    result
}

/// Returns whether the cache has a path by now. One whose NAR another cache has is made visible here too: it need not be fetched.
fn is_here(app: &App, cache: &Cache, offer: &Offer) -> Result<bool, Problem> {
    let fail = |error| failed(app, error, After::Headers);
    let (meta, info) = (app.engine.meta(), &offer.info);
    let nar = meta.nar(&cache.name, &info.nar_hash).map_err(|error| fail(error.into()))?;
    let path = meta.path(&cache.name, &info.store_path.hash()).map_err(|error| fail(error.into()))?;
    if let Some(nar) = &nar
        && path.is_some_and(|path| path.nar_hash == info.nar_hash)
        && app.engine.is_restorable(&nar.recipe).map_err(fail)?
    {
        return Ok(true);
    }
    app.engine.check_room().map_err(fail)?;
    let names: Vec<CacheName> = app.caches.all().iter().map(|cache| cache.name.clone()).take(64).collect();
    match app.engine.reuse(&names, &info.nar_hash).map_err(fail)? {
        Some(known) if known.length == info.nar_size => commit(app, cache, offer, known).map(|()| true),
        _ => Ok(false),
    }
}

/// Reads a file to its end: to the spool for the clients, and to the store. The NAR's last piece is given to nobody before all is known to
/// be what upstream signed.
fn take(app: &App, offer: &Offer, fetch: &Fetch, codec: Codec, mut reader: Reader) -> Result<Ingested, Problem> {
    let spool = Spool::new(&app.http.pull.spool_folder).map_err(|error| Problem::internal(&error, After::Headers))?;
    let _ = fetch.spool.set(spool);
    let outcome = reader.outcome();
    let explain = |error: std::io::Error| outcome.explain(&error, codec);
    let fail = |error| failed(app, error, After::Headers);
    let mut ingest = app.engine.ingest(Input::Nar).map_err(fail)?;
    let mut encoder = TransportEncoder::new().map_err(fail)?;
    let mut decoded = decoder(codec, &mut reader).map_err(explain)?;
    let (mut piece, mut frame, mut raw_bytes) = (Vec::with_capacity(TransportPiece::MAX_BYTES), Vec::new(), 0u64);
    let mut cut = TransportPiece::FIRST;
    loop {
        piece.clear();
        fill(&mut decoded, &mut piece, cut.bytes(), fetch).map_err(explain)?;
        raw_bytes += piece.len() as u64;
        if raw_bytes > fetch.nar_size || (piece.len() < cut.bytes() && raw_bytes < fetch.nar_size) {
            return Err(Problem::NarMismatch(format!("its NAR has not {} bytes", fetch.nar_size)));
        }
        frame.clear();
        encoder.encode(&piece, &mut frame).map_err(fail)?;
        if raw_bytes < fetch.nar_size {
            fetch.publish(&frame, raw_bytes, State::Running)?;
            ingest.write(&piece).map_err(fail)?;
            cut = cut.following();
            continue;
        }
        ingest.write(&piece).map_err(fail)?;
        check(&ingest, offer)?;
        if decoded.read(&mut [0]).map_err(explain)? > 0 {
            return Err(Problem::NarMismatch("bytes follow the NAR's end".to_owned()));
        }
        fetch.publish(&frame, raw_bytes, State::Whole)?;
        break;
    }
    drop(decoded);
    ingest.finish().map_err(fail)
}

/// Reads a piece of a NAR of `bytes` bytes, shorter only at its end. Clients get their answers as soon as what comes begins as a NAR does.
fn fill(decoded: &mut impl Read, piece: &mut Vec<u8>, bytes: usize, fetch: &Fetch) -> std::io::Result<()> {
    let mut buffer = [0; 64 << 10];
    while piece.len() < bytes {
        let room = buffer.len().min(bytes - piece.len());
        let len = decoded.read(&mut buffer[..room])?;
        if len == 0 {
            return Ok(());
        }
        piece.extend_from_slice(&buffer[..len]);
        if piece.starts_with(NAR_MAGIC) && fetch.progress.borrow().state == State::Begun {
            fetch.set(State::Running);
        }
    }
    Ok(())
}

fn check(ingest: &Ingest, offer: &Offer) -> Result<(), Problem> {
    let (found, _) = ingest.so_far();
    if found == offer.info.nar_hash {
        return Ok(());
    }
    let url = &offer.upstream.row.url;
    tracing::warn!(path = %offer.info.store_path, upstream = url, %found, "an upstream sent another NAR than it signed");
    Err(Problem::NarMismatch(format!("the NAR's hash is {found}")))
}

/// Makes a path visible whose NAR is stored. What it refers to is upstream's, which has signed that it does.
fn commit(app: &App, cache: &Cache, offer: &Offer, ingested: Ingested) -> Result<(), Problem> {
    let fail = |error| failed(app, error, After::Headers);
    let info = &offer.info;
    app.engine.commit_nar(&cache.name, ingested, None).map_err(fail)?;
    let tally = app.usage.counters.of(&cache.name, &offer.upstream.builder());
    let uploader = Uploader { token: None, builder: offer.upstream.builder() };
    let elsewhere = info.references.iter().cloned().collect();
    let upload = PathUpload { elsewhere, ..cache.upload(NarInfo::clone(info), uploader) };
    let outcome = app.engine.commit_path(&cache.name, upload).map_err(fail)?;
    app.http.narinfos.forget(&cache.name, &info.store_path.hash());
    tally.outcome(outcome, info.nar_size);
    match outcome {
        PathOutcome::Created | PathOutcome::Merged => Ok(()),
        PathOutcome::KeptFirst | PathOutcome::Rejected => Err(Problem::Conflict),
    }
}
