//! Build logs, realisations and debug-info documents: kept as they were sent, served as they were kept.

use std::hash::{Hash as _, Hasher as _};
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use firn_chunk::Input;
use firn_engine::{DocumentContent, Engine};
use firn_index::{CacheName, Content, DocumentKey, DocumentKind, Meta, Uploader};
use firn_nix::{Sha256, StorePath};
use http::Response;
use serde_json::{Map, Value};

use super::body::Body;
use super::codec::decoder;
use super::error::{After, Problem};
use super::nar::{Identity, PIECE_BYTES};
use super::realisation::{Outputs, Realisation};
use super::receive::{Incoming, Reader};
use super::route::{NarName, Resource};
use super::upload::{Upload, decode_all};
use super::{Caching, Want, download_turn, failed, files, notice, ok, pull, taken, work};
use crate::app::App;
use crate::caches::Cache;

/// The longest document that is kept in the index; longer ones are cut into chunks, like NARs.
const MAX_INLINE_BYTES: usize = 4 << 10;
/// The longest log.
const MAX_LOG_BYTES: u64 = 256 << 20;
/// The longest realisation or debug-info document that is taken.
const MAX_DOCUMENT_BYTES: u64 = 64 << 10;
/// The longest one that is kept: signatures are added.
pub(crate) const MAX_KEPT_BYTES: u64 = 128 << 10;
/// How long a document may be kept on the way to the client.
const MAX_AGE_SECONDS: u32 = 60;
const STEP_BYTES: usize = 256 << 10;

/// Returns under which key a resource is kept.
pub(crate) fn key_of(resource: &Resource) -> Option<DocumentKey> {
    let (kind, name) = match resource {
        Resource::Log(hash) => (DocumentKind::Log, hash.to_string()),
        Resource::Realisation(id) => (DocumentKind::Realisation, id.clone()),
        Resource::BuildTrace(id) => (DocumentKind::BuildTrace, id.clone()),
        Resource::DebugInfo(id) => (DocumentKind::DebugInfo, id.clone()),
        Resource::Home
        | Resource::CacheInfo
        | Resource::NarInfo(_)
        | Resource::Nar(_)
        | Resource::Listing(_)
        | Resource::File { .. }
        | Resource::Nothing => return None,
    };
    Some(DocumentKey { kind, name })
}

fn no_document() -> Problem {
    Problem::NotFound("this document")
}

/// Answers GET and HEAD.
pub(super) async fn get(
    app: &Arc<App>,
    cache: &Arc<Cache>,
    resource: &Resource,
    want: Want,
) -> Result<Response<Body>, Problem> {
    let key = key_of(resource).ok_or_else(no_document)?;
    let turn = download_turn(app, want).await?;
    let (shared, cache) = (Arc::clone(app), Arc::clone(cache));
    let response = work(app, After::Headers, move || open(&shared, &cache, &key)).await?;
    Ok(response.map(|body| body.holding(turn)))
}

fn open(app: &Arc<App>, cache: &Cache, key: &DocumentKey) -> Result<Response<Body>, Problem> {
    let fail = |error| failed(app, error, After::Headers);
    let row = app.engine.meta().document(&cache.name, key).map_err(|error| fail(error.into()))?;
    let body = match row.ok_or_else(no_document)?.content {
        Content::Inline(bytes) => Body::full(bytes),
        Content::Recipe { recipe, slots, length } => {
            let mut restore = app.engine.restore(&recipe, &slots, 0..length).map_err(fail)?;
            let first = restore.read(PIECE_BYTES).map_err(fail)?;
            Body::pull(first, Box::new(Identity { app: Arc::clone(app), restore }), Some(length))
        }
    };
    let content_type = match key.kind {
        DocumentKind::Log => "text/plain; charset=utf-8",
        DocumentKind::Realisation | DocumentKind::BuildTrace | DocumentKind::DebugInfo => "application/json",
        // No URL names one.
        DocumentKind::Difference => "application/octet-stream",
    };
    let mut response = ok(body, content_type, Caching::For(MAX_AGE_SECONDS).of(cache));
    files::harden(response.headers_mut());
    Ok(response)
}

/// Takes a log; it replaces an earlier one of the same derivation by the same builder. The first builder's stays: others are told that
/// all is well, since Nix gives up at anything else.
pub(super) async fn put_log<B>(
    upload: Upload<'_>,
    resource: &Resource,
    body: &mut Incoming<B>,
) -> Result<Response<Body>, Problem>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    let key = key_of(resource).ok_or_else(no_document)?;
    let encoding = body.encoding()?;
    body.check_length(MAX_LOG_BYTES)?;
    let turn = upload.turn_of_long(body).await?;
    let (app, cache, uploader) = (Arc::clone(upload.app), Arc::clone(upload.cache), upload.uploader);
    body.feed(MAX_LOG_BYTES, move |mut reader| {
        let _turn = turn;
        let fail = |error| failed(&app, error, After::Body);
        if is_of_another(&app.engine, &cache.name, &key, &uploader).map_err(fail)? {
            let outcome = reader.outcome();
            std::io::copy(&mut reader, &mut std::io::sink()).map_err(|error| outcome.explain(&error, encoding))?;
            return Ok(());
        }
        let content = read_log(&app, reader, encoding)?;
        // Another builder's may have come meanwhile.
        let _key = app.http.documents.take(&cache.name, &key);
        if is_of_another(&app.engine, &cache.name, &key, &uploader).map_err(fail)? {
            return Ok(());
        }
        app.engine.commit_document(&cache.name, key, content, uploader).map_err(fail)
    })
    .await?;
    Ok(taken())
}

/// Returns whether a document is here whole that another builder sent; notes that.
fn is_of_another(
    engine: &Engine,
    cache: &CacheName,
    key: &DocumentKey,
    uploader: &Uploader,
) -> firn_engine::Result<bool> {
    let Some(earlier) = engine.meta().document(cache, key)? else { return Ok(false) };
    let is_whole = match &earlier.content {
        Content::Inline(_) => true,
        Content::Recipe { recipe, .. } => engine.is_restorable(recipe)?,
    };
    let stays = is_whole && earlier.uploader.builder != uploader.builder;
    if stays {
        tell_kept(cache, key, &earlier.uploader, uploader);
    }
    Ok(stays)
}

fn tell_kept(cache: &CacheName, key: &DocumentKey, first: &Uploader, other: &Uploader) {
    let (first, other) = (&first.builder, &other.builder);
    tracing::info!(%cache, kind = ?key.kind, name = key.name, first, other, "a document stays as its first builder sent it");
}

fn read_log(app: &App, reader: Reader, encoding: super::codec::Codec) -> Result<DocumentContent, Problem> {
    let outcome = reader.outcome();
    let explain = |error: std::io::Error| outcome.explain(&error, encoding);
    let mut decoded = decoder(encoding, reader).map_err(explain)?;
    log_content(&app.engine, &mut decoded, &explain, &|error| failed(app, error, After::Body))
}

/// Reads a log to its end: into memory while it is short, then into chunks. `explain` says what it means that it can't be read,
/// `refuse` that it can't be stored.
pub(crate) fn log_content(
    engine: &Engine,
    log: &mut dyn Read,
    explain: &dyn Fn(std::io::Error) -> Problem,
    refuse: &dyn Fn(firn_engine::Error) -> Problem,
) -> Result<DocumentContent, Problem> {
    let mut head = Vec::new();
    Read::take(&mut *log, MAX_INLINE_BYTES as u64 + 1).read_to_end(&mut head).map_err(explain)?;
    if head.len() <= MAX_INLINE_BYTES {
        return Ok(DocumentContent::Inline(head));
    }
    let mut ingest = engine.ingest(Input::Bytes).map_err(refuse)?;
    ingest.write(&head).map_err(refuse)?;
    let mut buffer = vec![0; STEP_BYTES];
    let mut length = head.len() as u64;
    loop {
        let len = log.read(&mut buffer).map_err(explain)?;
        let Some(piece) = buffer.get(..len).filter(|piece| !piece.is_empty()) else { break };
        length += piece.len() as u64;
        if length > MAX_LOG_BYTES {
            return Err(Problem::TooLarge { limit: MAX_LOG_BYTES });
        }
        ingest.write(piece).map_err(refuse)?;
    }
    ingest.finish().map(DocumentContent::Ingested).map_err(refuse)
}

/// Takes a realisation or debug-info document.
pub(super) async fn put<B>(
    upload: Upload<'_>,
    resource: &Resource,
    body: &mut Incoming<B>,
) -> Result<Response<Body>, Problem>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    let key = key_of(resource).ok_or_else(no_document)?;
    let encoding = body.encoding()?;
    let text = body.collect(MAX_DOCUMENT_BYTES).await?;
    let (app, cache, uploader) = (Arc::clone(upload.app), Arc::clone(upload.cache), upload.uploader);
    let (shared, of, under) = (Arc::clone(&app), Arc::clone(&cache), key.clone());
    let (text, absent) = work(upload.app, After::Body, move || {
        let text = decode_all(&text, encoding, MAX_DOCUMENT_BYTES)?;
        let absent = absent_output(&shared, &of, &under, &text)?;
        Ok((text.to_vec(), absent))
    })
    .await?;
    let elsewhere = pull::known(&app, &cache, absent.into_iter().collect()).await;
    work(upload.app, After::Body, move || {
        take(&app.engine, Some(&app), &cache, key, text, &elsewhere, uploader).map(|_| ())
    })
    .await?;
    Ok(taken())
}

/// Returns the path that a realisation names, if the cache lacks it and has upstreams to be asked for it.
fn absent_output(app: &App, cache: &Cache, key: &DocumentKey, text: &[u8]) -> Result<Option<StorePath>, Problem> {
    if cache.proxies.is_empty() || !is_realisation(key) {
        return Ok(None);
    }
    let out_path = Realisation::parse(key, text)?.out_path().clone();
    let outputs = Outputs { meta: app.engine.meta(), cache, elsewhere: &[] };
    let is_here = outputs.has(&out_path)?;
    Ok(Some(out_path).filter(|_| !is_here))
}

fn is_realisation(key: &DocumentKey) -> bool {
    matches!(key.kind, DocumentKind::Realisation | DocumentKind::BuildTrace)
}

/// Takes a realisation or debug-info document; returns whether it says anything new. `elsewhere` are paths that an upstream
/// has, `app` is the server, if one runs.
///
/// Of realisations the first one stays. Debug info is replaced by the builder that sent it; by others, once its file is here no more.
pub(crate) fn take(
    engine: &Engine,
    app: Option<&App>,
    cache: &Cache,
    key: DocumentKey,
    text: Vec<u8>,
    elsewhere: &[StorePath],
    mut uploader: Uploader,
) -> Result<bool, Problem> {
    let fail = |error: firn_engine::Error| {
        if let Some(app) = app {
            notice(app, &error);
        }
        Problem::of_engine(error, After::Body)
    };
    // Two uploads of the same realisation must not lose each other's signatures.
    let _turn = app.map(|app| app.http.documents.take(&cache.name, &key));
    let earlier = engine.meta().document(&cache.name, &key).map_err(|error| fail(error.into()))?;
    let first = earlier.as_ref().map(|row| row.uploader.clone());
    let earlier = earlier.map(|row| read_back(engine, row.content)).transpose().map_err(fail)?;
    let mut is_new = true;
    let text = if is_realisation(&key) {
        let outputs = Outputs { meta: engine.meta(), cache, elsewhere };
        let new = Realisation::parse(&key, &text)?;
        new.check(&outputs)?;
        let earlier = earlier.and_then(|text| Realisation::parse(&key, &text).ok());
        let Some(text) = new.over(earlier, &outputs)? else { return Ok(false) };
        text
    } else {
        check_debug_info(&text)?;
        is_new = earlier.as_ref() != Some(&text);
        if let (Some(first), Some(earlier)) = (first.filter(|first| first.builder != uploader.builder), &earlier) {
            if is_new && has_archive(engine, &cache.name, earlier).map_err(|error| fail(error.into()))? {
                tell_kept(&cache.name, &key, &first, &uploader);
                return Ok(false);
            }
            if !is_new {
                uploader = first;
            }
        }
        // Written all the same: it is as young as its last upload.
        text
    };
    if text.len() as u64 > MAX_KEPT_BYTES {
        return Err(Problem::TooLarge { limit: MAX_DOCUMENT_BYTES });
    }
    let content = content_of(engine, text).map_err(fail)?;
    engine.commit_document(&cache.name, key, content, uploader).map_err(fail)?;
    Ok(is_new)
}

fn content_of(engine: &Engine, bytes: Vec<u8>) -> firn_engine::Result<DocumentContent> {
    if bytes.len() <= MAX_INLINE_BYTES {
        return Ok(DocumentContent::Inline(bytes));
    }
    let mut ingest = engine.ingest(Input::Bytes)?;
    ingest.write(&bytes)?;
    ingest.finish().map(DocumentContent::Ingested)
}

/// Reads a document that [`take`] wrote.
pub(crate) fn read_back(engine: &Engine, content: Content) -> firn_engine::Result<Vec<u8>> {
    match content {
        Content::Inline(bytes) => Ok(bytes),
        Content::Recipe { recipe, slots, length } => {
            let mut restore = engine.restore(&recipe, &slots, 0..length.min(MAX_KEPT_BYTES))?;
            let mut bytes = Vec::new();
            while let Some(piece) = restore.next(PIECE_BYTES)? {
                bytes.extend_from_slice(&piece);
            }
            Ok(bytes)
        }
    }
}

/// Checks that a debug-info document is what Nix writes: debuggers fetch what it names. The NAR need not be here, as Nix uploads it
/// afterwards.
fn check_debug_info(text: &[u8]) -> Result<(), Problem> {
    let document = parse(text)?;
    let string = |name: &str| {
        let text = document.get(name).and_then(Value::as_str);
        text.ok_or_else(|| Problem::BadDocument(format!("it has no '{name}'")))
    };
    if archive_name(string("archive")?).is_none() {
        return Err(Problem::BadDocument("its 'archive' is not '../nar/' and the name of a file".to_owned()));
    }
    let is_plain = |name: &str| !matches!(name, "" | "." | "..") && !name.contains(char::is_control);
    if !string("member")?.split('/').all(is_plain) {
        return Err(Problem::BadDocument("its 'member' is no path inside of an archive".to_owned()));
    }
    Ok(())
}

fn archive_name(archive: &str) -> Option<NarName> {
    archive.strip_prefix("../nar/")?.parse().ok()
}

/// Returns the NAR that debug info is in, if the cache has it.
pub(crate) fn archive(
    meta: &dyn Meta,
    cache: &CacheName,
    document: &Map<String, Value>,
) -> Result<Option<Sha256>, firn_index::Error> {
    let name = document.get("archive").and_then(Value::as_str).and_then(archive_name);
    let Some(name) = name else { return Ok(None) };
    if let Some(hash) = name.hash()
        && meta.nar(cache, &hash)?.is_some()
    {
        return Ok(Some(hash));
    }
    Ok(meta.alias(cache, name.file())?.map(|alias| alias.nar_hash))
}

/// Returns whether a debug-info document names a NAR that the cache has.
fn has_archive(engine: &Engine, cache: &CacheName, text: &[u8]) -> Result<bool, firn_index::Error> {
    let Ok(document) = parse(text) else { return Ok(false) };
    let Some(nar) = archive(engine.meta(), cache, &document)? else { return Ok(false) };
    Ok(engine.meta().nar(cache, &nar)?.is_some())
}

/// Reads a document of JSON.
pub(super) fn parse(text: &[u8]) -> Result<Map<String, Value>, Problem> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(document)) => Ok(document),
        Ok(_) | Err(_) => Err(Problem::BadDocument("it is no JSON object".to_owned())),
    }
}

/// Locks by key, so that reading, merging and writing a document is one step.
pub(super) struct Turns([Mutex<()>; 64]);

impl Turns {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(())))
    }

    fn take(&self, cache: &CacheName, key: &DocumentKey) -> MutexGuard<'_, ()> {
        let mut hasher = std::hash::DefaultHasher::new();
        (cache, key).hash(&mut hasher);
        let at = hasher.finish() as usize % self.0.len();
        self.0[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
