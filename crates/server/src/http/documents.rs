//! Build logs, realisations and debug-info documents: kept as they were sent, served as they were kept.

use std::hash::{Hash as _, Hasher as _};
use std::io::Read as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use firn_chunk::Input;
use firn_engine::DocumentContent;
use firn_index::{CacheName, ConflictPolicy, Content, DocumentKey, DocumentKind};
use firn_nix::{Signature, StorePath};
use http::Response;
use serde_json::{Map, Value};

use super::body::Body;
use super::codec::decoder;
use super::error::{After, Problem};
use super::nar::{Identity, PIECE_BYTES};
use super::receive::{Incoming, Reader};
use super::route::Resource;
use super::upload::{Upload, decode_all};
use super::{Caching, PATIENCE, failed, files, ok, permit, taken, work};
use crate::app::App;
use crate::caches::Cache;

/// The longest document that is kept in the index; longer ones are cut into chunks, like NARs.
const MAX_INLINE_BYTES: usize = 4 << 10;
/// The longest log.
const MAX_LOG_BYTES: u64 = 256 << 20;
/// The longest realisation or debug-info document.
const MAX_DOCUMENT_BYTES: u64 = 64 << 10;
/// How long a document may be kept on the way to the client.
const MAX_AGE_SECONDS: u32 = 60;
const STEP_BYTES: usize = 256 << 10;

/// Returns under which key a resource is kept.
fn key_of(resource: &Resource) -> Option<DocumentKey> {
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
pub(super) async fn get(app: &Arc<App>, cache: &Arc<Cache>, resource: &Resource) -> Result<Response<Body>, Problem> {
    let key = key_of(resource).ok_or_else(no_document)?;
    let permit = permit(&app.downloads, PATIENCE, After::Headers).await?;
    let (shared, cache) = (Arc::clone(app), Arc::clone(cache));
    let response = work(app, After::Headers, move || open(&shared, &cache, &key)).await?;
    Ok(response.map(|body| body.holding(permit)))
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

/// Takes a log; it replaces an earlier one of the same derivation.
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
    let turn = upload.turn(body).await?;
    let (app, cache, uploader) = (Arc::clone(upload.app), Arc::clone(upload.cache), upload.uploader);
    body.feed(MAX_LOG_BYTES, move |reader| {
        let _turn = turn;
        let content = read_log(&app, reader, encoding)?;
        app.engine
            .commit_document(&cache.name, key, content, uploader)
            .map_err(|error| failed(&app, error, After::Body))
    })
    .await?;
    Ok(taken())
}

/// Reads a log to its end: into memory while it is short, then into chunks.
fn read_log(app: &App, reader: Reader, encoding: super::codec::Codec) -> Result<DocumentContent, Problem> {
    let outcome = reader.outcome();
    let explain = |error: std::io::Error| outcome.explain(&error, encoding);
    let mut decoded = decoder(encoding, reader).map_err(explain)?;
    let mut head = Vec::new();
    decoded.by_ref().take(MAX_INLINE_BYTES as u64 + 1).read_to_end(&mut head).map_err(explain)?;
    if head.len() <= MAX_INLINE_BYTES {
        return Ok(DocumentContent::Inline(head));
    }
    let refuse = |error| failed(app, error, After::Body);
    let mut ingest = app.engine.ingest(Input::Bytes).map_err(refuse)?;
    ingest.write(&head).map_err(refuse)?;
    let mut buffer = vec![0; STEP_BYTES];
    let mut length = head.len() as u64;
    loop {
        let len = decoded.read(&mut buffer).map_err(explain)?;
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
    work(upload.app, After::Body, move || {
        let text = decode_all(&text, encoding, MAX_DOCUMENT_BYTES)?;
        let document = check(&key, &text)?;
        let fail = |error| failed(&app, error, After::Body);
        // Two uploads of the same realisation must not lose each other's signatures.
        let _turn = app.http.documents.take(&cache.name, &key);
        let earlier = app.engine.meta().document(&cache.name, &key).map_err(|error| fail(error.into()))?;
        let earlier = earlier.map(|row| read_back(&app, row.content)).transpose()?;
        let Some(merged) = merge(&cache, &key, earlier.as_deref(), &text, document)? else { return Ok(()) };
        app.engine.commit_document(&cache.name, key, content_of(&app, merged)?, uploader).map_err(fail)
    })
    .await?;
    Ok(taken())
}

fn content_of(app: &App, bytes: Vec<u8>) -> Result<DocumentContent, Problem> {
    if bytes.len() <= MAX_INLINE_BYTES {
        return Ok(DocumentContent::Inline(bytes));
    }
    let refuse = |error| failed(app, error, After::Body);
    let mut ingest = app.engine.ingest(Input::Bytes).map_err(refuse)?;
    ingest.write(&bytes).map_err(refuse)?;
    ingest.finish().map(DocumentContent::Ingested).map_err(refuse)
}

/// Reads a document that [`put`] wrote.
fn read_back(app: &App, content: Content) -> Result<Vec<u8>, Problem> {
    let fail = |error| failed(app, error, After::Body);
    match content {
        Content::Inline(bytes) => Ok(bytes),
        Content::Recipe { recipe, slots, length } => {
            let mut restore = app.engine.restore(&recipe, &slots, 0..length.min(MAX_DOCUMENT_BYTES)).map_err(fail)?;
            let mut bytes = Vec::new();
            while let Some(piece) = restore.next(PIECE_BYTES).map_err(fail)? {
                bytes.extend_from_slice(&piece);
            }
            Ok(bytes)
        }
    }
}

/// Checks that a document is what Nix writes under such a key.
fn check(key: &DocumentKey, text: &[u8]) -> Result<Map<String, Value>, Problem> {
    let malformed = |detail: &str| Problem::BadDocument(detail.to_owned());
    let document = parse(text).ok_or_else(|| malformed("it is no JSON object"))?;
    let string = |name: &str| document.get(name).and_then(Value::as_str);
    match key.kind {
        DocumentKind::Log | DocumentKind::Difference => {}
        DocumentKind::DebugInfo => {
            string("archive").ok_or_else(|| malformed("it has no 'archive'"))?;
            string("member").ok_or_else(|| malformed("it has no 'member'"))?;
        }
        DocumentKind::Realisation | DocumentKind::BuildTrace => {
            let path = string("outPath").ok_or_else(|| malformed("it has no 'outPath'"))?;
            path.parse::<StorePath>().map_err(|_| malformed("its 'outPath' is no base name of a store path"))?;
            if key.kind == DocumentKind::Realisation && string("id") != Some(&key.name) {
                return Err(malformed("its 'id' is not the one in the URL"));
            }
            let signatures = signatures(&document).ok_or_else(|| malformed("its 'signatures' are no list"))?;
            if !signatures.iter().all(is_signature) {
                return Err(malformed("one of its 'signatures' is malformed"));
            }
        }
    }
    Ok(document)
}

fn parse(text: &[u8]) -> Option<Map<String, Value>> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(document)) => Some(document),
        Ok(_) | Err(_) => None,
    }
}

/// Returns a document's signatures; one without any has an empty list.
fn signatures(document: &Map<String, Value>) -> Option<&[Value]> {
    document.get("signatures").map_or(Some(&[]), |list| list.as_array().map(Vec::as_slice))
}

/// Says if a value is a signature: `name:base64` up to Nix 2.34, an object since.
fn is_signature(value: &Value) -> bool {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Object(parts) => {
            match (parts.get("keyName").and_then(Value::as_str), parts.get("sig").and_then(Value::as_str)) {
                (Some(name), Some(signature)) => format!("{name}:{signature}"),
                _ => return false,
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => return false,
    };
    text.parse::<Signature>().is_ok()
}

/// Returns what to write for a document that came when `earlier` was there; `None` to leave that.
///
/// Debug-info documents are replaced: the newest names a file that is surely here. A realisation stays the first one; of a
/// second with the same path the signatures are added.
fn merge(
    cache: &Cache,
    key: &DocumentKey,
    earlier: Option<&[u8]>,
    text: &[u8],
    document: Map<String, Value>,
) -> Result<Option<Vec<u8>>, Problem> {
    let replaces = matches!(key.kind, DocumentKind::Log | DocumentKind::DebugInfo);
    let Some(mut merged) = earlier.filter(|_| !replaces).and_then(parse) else { return Ok(Some(text.to_vec())) };
    if merged.get("outPath") != document.get("outPath") {
        return match cache.row.on_conflict {
            ConflictPolicy::KeepFirst => Ok(None),
            ConflictPolicy::Reject => Err(Problem::Conflict),
        };
    }
    let mut all = signatures(&merged).unwrap_or_default().to_vec();
    let before = all.len();
    for signature in signatures(&document).unwrap_or_default() {
        if !all.contains(signature) {
            all.push(signature.clone());
        }
    }
    if all.len() == before {
        return Ok(None);
    }
    merged.insert("signatures".to_owned(), Value::Array(all));
    let merged = Value::Object(merged).to_string().into_bytes();
    if merged.len() as u64 > MAX_DOCUMENT_BYTES {
        Err(Problem::TooLarge { limit: MAX_DOCUMENT_BYTES })
    } else {
        Ok(Some(merged))
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
