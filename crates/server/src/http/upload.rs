//! What Nix uploads: NARs, narinfos, listings, `nix-cache-info`.
//!
//! A NAR comes first and stands for itself, under a lease; its narinfo makes it a path, once everything that it says of
//! the NAR was found true. Refusals come before the body where they can, and are final where they can't ([`After`]).

use std::io::{BufRead as _, Read};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_chunk::Input;
use firn_engine::{Ingest, Ingested, MAX_SIGNATURES, PathOutcome, PathUpload};
use firn_index::{AliasRow, CacheRow, Uploader};
use firn_nix::{CacheInfo, MAX_CACHE_INFO_LEN, MAX_NARINFO_LEN, NarInfo, Sha256, StoreHash, StorePath};
use http::{HeaderValue, Response};

use super::body::Body;
use super::codec::{Codec, decoder};
use super::error::{After, Problem};
use super::receive::{Incoming, Outcome, Reader};
use super::route::NarName;
use super::{PATIENCE, failed, known, nar, ok, pull, taken, work};
use crate::app::App;
use crate::caches::Cache;
use crate::error_chain;
use crate::turns::Turn;

/// How long an upload waits for its turn whose client has sent its body already: it can't be told to come again. Nix gives
/// up after 300 s.
const LONG_PATIENCE: Duration = Duration::from_secs(240);
/// Uploads up to this length need no turn: a body of that size is no burden.
const SMALL_BYTES: u64 = 64 << 10;
/// The longest listing that is taken, decoded.
const MAX_LISTING_BYTES: u64 = 64 << 20;
/// How much is decoded at a time.
const STEP_BYTES: usize = 256 << 10;
/// How many bytes tell one compression from the others.
const MAGIC_BYTES: usize = 16;

/// An upload that may go on.
pub(super) struct Upload<'a> {
    pub(super) app: &'a Arc<App>,
    pub(super) cache: &'a Arc<Cache>,
    pub(super) uploader: Uploader,
    /// Where it comes from.
    pub(super) address: Option<IpAddr>,
}

impl Upload<'_> {
    /// Waits for a turn, before the body is touched; a small one needs none.
    pub(super) async fn turn_of_long<B>(&self, body: &Incoming<B>) -> Result<Option<Turn<String>>, Problem>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let is_small = body.length.is_some_and(|length| length <= SMALL_BYTES);
        if is_small { Ok(None) } else { self.turn(body).await.map(Some) }
    }

    /// Waits for a turn, before the body is touched.
    async fn turn<B>(&self, body: &Incoming<B>) -> Result<Turn<String>, Problem>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let after = body.after();
        let patience = match after {
            After::Headers => PATIENCE,
            After::Body => LONG_PATIENCE,
        };
        let turn = tokio::time::timeout(patience, self.app.uploads.take(Some(&self.uploader.builder), 1)).await;
        turn.ok().and_then(Result::ok).ok_or(Problem::Busy(after))
    }

    /// Refuses what there is no room for, before the body is touched.
    async fn check_room<B>(&self, body: &Incoming<B>) -> Result<(), Problem>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let (app, after) = (Arc::clone(self.app), body.after());
        work(self.app, after, move || app.engine.check_room().map_err(|error| failed(&app, error, after))).await
    }

    /// Takes a NAR.
    pub(super) async fn nar<B>(self, name: NarName, body: &mut Incoming<B>) -> Result<Response<Body>, Problem>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin,
    {
        let codec = Codec::from_extension(name.extension())?;
        if body.encoding()? != Codec::Identity {
            return Err(Problem::Undecodable { codec: "a NAR", detail: "it has a Content-Encoding".to_owned() });
        }
        let limit = file_limit(self.app.config.store.max_nar_size.0);
        body.check_length(limit)?;
        // NARs are worth a turn whatever their length: they may grow.
        let turn = self.turn(body).await?;
        self.check_room(body).await?;
        let (app, cache) = (Arc::clone(self.app), Arc::clone(self.cache));
        body.feed(limit, move |reader| {
            let _turn = turn;
            take_nar(&app, &cache, &name, codec, reader)
        })
        .await?;
        Ok(taken())
    }

    /// Takes a narinfo.
    pub(super) async fn narinfo<B>(self, hash: StoreHash, body: &mut Incoming<B>) -> Result<Response<Body>, Problem>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin,
    {
        let encoding = body.encoding()?;
        let limit = MAX_NARINFO_LEN as u64;
        body.check_length(limit)?;
        // Small as it is, a whole NAR may have to be read to check it.
        let turn = self.turn(body).await?;
        let text = body.collect(limit).await?;
        let (app, cache, uploader) = (Arc::clone(self.app), Arc::clone(self.cache), self.uploader);
        let address = self.address;
        let (shared, of) = (Arc::clone(&app), Arc::clone(&cache));
        let (info, absent) = work(&app, After::Body, move || {
            let text = decode_all(&text, encoding, limit)?;
            let info =
                NarInfo::parse(&text, &of.row.store_dir).map_err(|error| Problem::BadNarInfo(error_chain(&error)))?;
            if info.store_path.hash() != hash {
                return Err(Problem::WrongPath { found: info.store_path.to_string() });
            }
            let absent = absent_references(&shared, &of, &info)?;
            Ok((info, absent))
        })
        .await?;
        // The uploader was told that these are here.
        let elsewhere = pull::known(&app, &cache, absent).await;
        let left_out = work(self.app, After::Body, move || {
            let _turn = turn;
            let (path, sent) = (info.store_path.clone(), texts(&info));
            let committed = commit_narinfo(&app, &cache, info, elsewhere, uploader, address);
            app.http.narinfos.forget(&cache.name, &hash);
            Ok(match committed? {
                PathOutcome::Created | PathOutcome::Merged => cache.note_left_out(app.engine.meta(), &path, &sent),
                PathOutcome::KeptFirst | PathOutcome::Rejected => 0,
            })
        })
        .await?;
        Ok(taken_but(left_out))
    }

    /// Takes a listing, which is not kept: what a NAR holds is read from the NAR.
    pub(super) async fn listing<B>(self, _hash: StoreHash, body: &mut Incoming<B>) -> Result<Response<Body>, Problem>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin,
    {
        let encoding = body.encoding()?;
        body.check_length(MAX_LISTING_BYTES)?;
        let turn = self.turn_of_long(body).await?;
        body.feed(MAX_LISTING_BYTES, move |reader| {
            let _turn = turn;
            let outcome = reader.outcome();
            let explain = |error: std::io::Error| outcome.explain(&error, encoding);
            let mut decoded = decoder(encoding, reader).map_err(explain)?.take(MAX_LISTING_BYTES + 1);
            let mut first = [0];
            decoded.read_exact(&mut first).map_err(explain)?;
            let rest = std::io::copy(&mut decoded, &mut std::io::sink()).map_err(explain)?;
            if rest >= MAX_LISTING_BYTES {
                return Err(Problem::TooLarge { limit: MAX_LISTING_BYTES });
            }
            if first != *b"{" { Err(Problem::BadDocument("a listing is a JSON object".to_owned())) } else { Ok(()) }
        })
        .await?;
        Ok(taken())
    }

    /// Takes `nix-cache-info`, if it agrees with the one that is here.
    pub(super) async fn cache_info<B>(self, body: &mut Incoming<B>) -> Result<Response<Body>, Problem>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let encoding = body.encoding()?;
        let text = body.collect(MAX_CACHE_INFO_LEN as u64).await?;
        let text = decode_all(&text, encoding, MAX_CACHE_INFO_LEN as u64)?;
        let malformed = |detail: String| Problem::BadDocument(detail);
        let text = std::str::from_utf8(&text).map_err(|error| malformed(error.to_string()))?;
        let info: CacheInfo = text.parse().map_err(|error| malformed(error_chain(&error)))?;
        match info.store_dir {
            Some(other) if other != self.cache.row.store_dir => {
                Err(Problem::StoreDir(self.cache.row.store_dir.clone()))
            }
            _ => Ok(taken()),
        }
    }
}

/// Returns how long a file may be whose NAR has at most `nar_limit` bytes: noise grows a little when it is compressed.
pub(super) fn file_limit(nar_limit: u64) -> u64 {
    nar_limit.saturating_add(nar_limit / 16).saturating_add(1 << 20)
}

/// Decodes a body in memory; more than `limit` bytes of output are refused.
pub(super) fn decode_all(body: &Bytes, codec: Codec, limit: u64) -> Result<Bytes, Problem> {
    if codec == Codec::Identity {
        return Ok(body.clone());
    }
    let explain = |error: std::io::Error| Problem::Undecodable { codec: codec.name(), detail: error.to_string() };
    let mut decoded = Vec::new();
    decoder(codec, &body[..]).map_err(explain)?.take(limit + 1).read_to_end(&mut decoded).map_err(explain)?;
    if decoded.len() as u64 > limit { Err(Problem::TooLarge { limit }) } else { Ok(decoded.into()) }
}

/// Reads a NAR's file to its end, and commits the NAR under the file's name.
fn take_nar(app: &App, cache: &Cache, name: &NarName, codec: Option<Codec>, mut reader: Reader) -> Result<(), Problem> {
    let fail = |error| failed(app, error, After::Body);
    let outcome = reader.outcome();
    let codec = match codec {
        Some(codec) => codec,
        None => {
            let head = reader.peek(MAGIC_BYTES).map_err(|error| outcome.explain(&error, Codec::Identity))?;
            Codec::sniff(head)?
        }
    };
    let known = known::find(app, cache, name, codec)?;
    // Of a new NAR that is not compressed, the engine makes the same hash.
    if known.is_some() || codec != Codec::Identity {
        reader.hash();
    }
    let ingested = match known {
        Some(mut known) => {
            known::read_out(app, &mut reader, |error| outcome.explain(&error, codec), &mut known)?;
            check_file(name, reader.file_hash())?;
            known
        }
        None => {
            let mut ingest = app.engine.ingest(Input::Nar).map_err(fail)?;
            reader = pass_on(app, reader, codec, &outcome, &mut ingest)?;
            check_file(name, reader.file_hash())?;
            let ingested = ingest.finish().map_err(fail)?;
            check_file(name, Some(ingested.nar_hash).filter(|_| codec == Codec::Identity))?;
            ingested
        }
    };
    if name.hash().is_none() {
        check_free(app, cache, name, &ingested)?;
    }
    let alias = alias_of(name, codec, &ingested, reader.received());
    app.engine.commit_nar(&cache.name, ingested, alias).map_err(fail)
}

/// Refuses another NAR under a name that is taken, if nothing in the name says which NAR it is: what a URL gives never changes.
fn check_free(app: &App, cache: &Cache, name: &NarName, ingested: &Ingested) -> Result<(), Problem> {
    let fail = |error: firn_index::Error| failed(app, error.into(), After::Body);
    let meta = app.engine.meta();
    match meta.alias(&cache.name, name.file()).map_err(fail)? {
        Some(earlier)
            if earlier.nar_hash != ingested.nar_hash
                && meta.nar(&cache.name, &earlier.nar_hash).map_err(fail)?.is_some() =>
        {
            Err(Problem::Conflict)
        }
        Some(_) | None => Ok(()),
    }
}

/// Checks a file's hash, if it is known, against the one that its name says.
fn check_file(name: &NarName, found: Option<Sha256>) -> Result<(), Problem> {
    match (name.hash(), found) {
        (Some(expected), Some(found)) if expected != found => Err(Problem::FileHash { found: found.to_nix32() }),
        _ => Ok(()),
    }
}

/// Decodes the whole body into an ingest and returns the reader, at its end.
fn pass_on(
    app: &App,
    mut reader: Reader,
    codec: Codec,
    outcome: &Outcome,
    ingest: &mut Ingest,
) -> Result<Reader, Problem> {
    let explain = |error: std::io::Error| outcome.explain(&error, codec);
    let refuse = |error| failed(app, error, After::Body);
    if codec == Codec::Identity {
        loop {
            let piece = reader.fill_buf().map_err(explain)?;
            if piece.is_empty() {
                return Ok(reader);
            }
            ingest.write(piece).map_err(refuse)?;
            let len = piece.len();
            reader.consume(len);
        }
    }
    let mut decoded = decoder(codec, &mut reader).map_err(explain)?;
    let mut buffer = vec![0; STEP_BYTES];
    loop {
        let len = decoded.read(&mut buffer).map_err(explain)?;
        let Some(piece) = buffer.get(..len).filter(|piece| !piece.is_empty()) else { break };
        ingest.write(piece).map_err(refuse)?;
    }
    drop(decoded);
    if reader.fill_buf().map_err(explain)?.is_empty() {
        return Ok(reader);
    }
    Err(Problem::Undecodable { codec: codec.name(), detail: "bytes follow its end".to_owned() })
}

/// Returns the name to remember a NAR by, unless it is one that every NAR has.
fn alias_of(name: &NarName, codec: Codec, ingested: &Ingested, file_size: u64) -> Option<(String, AliasRow)> {
    if codec == Codec::Identity && name.hash() == Some(ingested.nar_hash) {
        return None;
    }
    let row = AliasRow { nar_hash: ingested.nar_hash, compression: codec.name().to_owned(), file_size };
    Some((name.file().to_owned(), row))
}

/// Checks a narinfo against what is here, signs it, and makes its path visible.
fn commit_narinfo(
    app: &App,
    cache: &Cache,
    info: NarInfo,
    elsewhere: Vec<StorePath>,
    uploader: Uploader,
    address: Option<IpAddr>,
) -> Result<PathOutcome, Problem> {
    let row = &cache.row;
    check_nar(app, cache, &info)?;
    check_signatures(row, cache, &info)?;
    let tally = app.usage.counters.of(&cache.name, &uploader.builder);
    let upload = PathUpload { elsewhere, address, ..cache.upload(info, uploader) };
    let hash = upload.path.hash();
    // Before the row is read: a collection leaves what it was told of, and what it had removed before is written anew.
    if app.engine.meta().path_may_exist(&cache.name, &hash) {
        app.engine.note_use(&cache.name, hash);
    }
    let known = app.engine.meta().path(&cache.name, &hash);
    let known = known.map_err(|error| failed(app, error.into(), After::Body))?;
    let is_known = known.is_some_and(|known| {
        known.path == upload.path
            && known.nar_hash == upload.nar_hash
            && known.references == upload.references
            && (known.deriver.is_some() || upload.deriver.is_none())
            && (known.ca == upload.ca || upload.ca.is_none())
            && upload.signatures.iter().all(|signature| known.signatures.contains(signature))
    });
    if is_known {
        return Ok(PathOutcome::Merged);
    }
    let nar_size = upload.nar_size;
    let outcome = app.engine.commit_path(&cache.name, upload).map_err(|error| failed(app, error, After::Body))?;
    tally.outcome(outcome, nar_size);
    match outcome {
        PathOutcome::Created | PathOutcome::Merged | PathOutcome::KeptFirst => Ok(outcome),
        PathOutcome::Rejected => Err(Problem::Conflict),
    }
}

fn texts(info: &NarInfo) -> Vec<String> {
    info.signatures.iter().map(ToString::to_string).collect()
}

/// Returns the answer to a narinfo that was taken, but for some signatures. Nix shows none of it.
fn taken_but(left_out: usize) -> Response<Body> {
    if left_out == 0 {
        return taken();
    }
    ok(Body::full(left_out_text(left_out) + "\n"), "text/plain; charset=utf-8", HeaderValue::from_static("no-store"))
}

/// Says how many signatures were not taken, and why.
pub(super) fn left_out_text(left_out: usize) -> String {
    format!(
        "{left_out} signatures were left out: they are not by the keys whose names they have, or the path has {MAX_SIGNATURES} already"
    )
}

/// Returns which references a cache lacks whose upstreams are asked for what it lacks.
fn absent_references(app: &App, cache: &Cache, info: &NarInfo) -> Result<Vec<StorePath>, Problem> {
    let mut absent = Vec::new();
    if cache.proxies.is_empty() {
        return Ok(absent);
    }
    for reference in info.references.iter().filter(|reference| **reference != info.store_path) {
        let row = app.engine.meta().path(&cache.name, &reference.hash());
        if row.map_err(|error| failed(app, error.into(), After::Body))?.is_none() {
            absent.push(reference.clone());
        }
    }
    Ok(absent)
}

/// Checks that the URL names a NAR of the cache, and that it is the one that the narinfo speaks of.
fn check_nar(app: &App, cache: &Cache, info: &NarInfo) -> Result<(), Problem> {
    let missing = || Problem::NarMissing { url: info.url.clone() };
    // A query changes nothing about which file it is.
    let path = info.url.split(['?', '#']).next().unwrap_or_default();
    let name: NarName = path.strip_prefix("nar/").and_then(|name| name.parse().ok()).ok_or_else(missing)?;
    let found = nar::find(app, cache, &name, After::Body)?.ok_or_else(missing)?;
    if found.nar_hash != info.nar_hash {
        return Err(Problem::NarMismatch(format!("the NAR's hash is {}", found.nar_hash)));
    }
    if found.row.nar_size != info.nar_size {
        return Err(Problem::NarMismatch(format!("the NAR has {} bytes", found.row.nar_size)));
    }
    let restorable = app.engine.is_restorable(&found.row.recipe).map_err(|error| failed(app, error, After::Body))?;
    if restorable { Ok(()) } else { Err(missing()) }
}

pub(super) fn check_signatures(row: &CacheRow, cache: &Cache, info: &NarInfo) -> Result<(), Problem> {
    if cache.trusted.is_empty() || cache.trusted.iter().any(|key| info.is_signed_by(key, &row.store_dir)) {
        return Ok(());
    }
    Err(Problem::Unsigned(row.trusted_keys.join(" ")))
}
