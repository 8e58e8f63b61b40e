//! NARs out: as they are, as zstd, and in whatever compression their uploader named them.
//!
//! `nar/<narhash>.nar` and `nar/<narhash>.nar.zst` resume at any byte; the bytes behind them never change. Other names are those
//! under which files were uploaded: identity and zstd give the same bytes as above, everything else is compressed anew
//! for each request (nobody checks the file's hash, only the NAR's), a few at once, and can't be resumed.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use firn_engine::{Restore, TransportPiece, ZstdRestore, spans};
use firn_index::NarRow;
use firn_nix::Sha256;
use http::header::{ACCEPT_RANGES, CONTENT_RANGE};
use http::{HeaderValue, Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Span;

use super::body::{Body, Broken, Source};
use super::codec::{Codec, Encoder};
use super::error::{After, Problem};
use super::range::{Asked, Wanted};
use super::route::NarName;
use super::{Caching, PATIENCE, Want, download_turn, failed, notice, permit, work};
use crate::app::App;
use crate::caches::Cache;

/// How much is restored before the first byte is sent.
pub(super) const PIECE_BYTES: usize = 256 << 10;
/// How much is restored at a time after that: a client holds two such pieces. Each costs two changes of threads.
const LATER_BYTES: usize = 1 << 20;
/// The same in frames of the zstd form.
const LATER_FRAMES: usize = LATER_BYTES / TransportPiece::MAX_BYTES;
pub(super) const CONTENT_TYPE: &str = "application/x-nix-nar";

/// A NAR, and the form in which a name wants it.
pub(super) struct Found {
    pub(super) nar_hash: Sha256,
    pub(super) row: NarRow,
    pub(super) codec: Codec,
}

/// Returns what a name under `nar/` stands for in a cache.
pub(super) fn find(app: &App, cache: &Cache, name: &NarName, after: After) -> Result<Option<Found>, Problem> {
    let failed = |error: firn_index::Error| failed(app, error.into(), after);
    let meta = app.engine.meta();
    let form = match name.extension() {
        "" => Some(Codec::Identity),
        "zst" => Some(Codec::Zstd),
        _ => None,
    };
    if let (Some(nar_hash), Some(codec)) = (name.hash(), form)
        && let Some(row) = meta.nar(&cache.name, &nar_hash).map_err(failed)?
    {
        return Ok(Some(Found { nar_hash, row, codec }));
    }
    let Some(alias) = meta.alias(&cache.name, name.file()).map_err(failed)? else { return Ok(None) };
    let Some(row) = meta.nar(&cache.name, &alias.nar_hash).map_err(failed)? else { return Ok(None) };
    let codec = Codec::from_name(&alias.compression)?;
    Ok(Some(Found { nar_hash: alias.nar_hash, row, codec }))
}

/// Returns what a name under `nar/` stands for in a cache, and notes that the NAR was used.
fn find_to_use(app: &App, cache: &Cache, name: &NarName) -> Result<Option<Found>, Problem> {
    // Of a name that nobody has nothing is noted.
    let Some(found) = find(app, cache, name, After::Headers)? else { return Ok(None) };
    app.engine.note_nar_use(&cache.name, &found.nar_hash);
    // Once more: a collection leaves what it was told of, but may have removed this NAR before.
    let row = app.engine.meta().nar(&cache.name, &found.nar_hash);
    let row = row.map_err(|error| failed(app, error.into(), After::Headers))?;
    Ok(row.map(|row| Found { row, ..found }))
}

/// Answers GET and HEAD.
pub(super) async fn get(
    app: &Arc<App>,
    cache: &Arc<Cache>,
    name: NarName,
    want: Want,
) -> Result<Response<Body>, Problem> {
    let turn = download_turn(app, want).await?;
    let (shared, owned) = (Arc::clone(app), Arc::clone(cache));
    match work(app, After::Headers, move || open(&shared, &owned, &name, want)).await? {
        Opened::Ready(response) => Ok(response.map(|body| body.holding(turn))),
        Opened::ToEncode(found, span) => {
            // Whoever waits for an encoder keeps nobody else from downloading.
            drop(turn);
            encode(app, cache, found, span, want).await
        }
    }
}

/// What a NAR's name leads to.
enum Opened {
    Ready(Response<Body>),
    /// It has to be compressed, which not many do at once.
    ToEncode(Found, Span),
}

fn open(app: &Arc<App>, cache: &Cache, name: &NarName, want: Want) -> Result<Opened, Problem> {
    let found = find_to_use(app, cache, name)?.ok_or(Problem::NotFound("this NAR"))?;
    let span = restoring(found.row.nar_size);
    let response = match found.codec {
        Codec::Identity => span.in_scope(|| identity(app, &found.row, 0..found.row.nar_size, want)),
        Codec::Zstd => span.in_scope(|| zstd(app, &found, want)),
        Codec::Xz
        | Codec::Bzip2
        | Codec::Gzip
        | Codec::Brotli
        | Codec::Lz4
        | Codec::Lzip
        | Codec::Lzma
        | Codec::Compress => {
            if !want.head_only {
                return Ok(Opened::ToEncode(found, span));
            }
            // As far as a download goes before its status line.
            span.in_scope(|| whole(app, &found)).map(|_restore| Response::new(Body::absent(None)))
        }
    }?;
    Ok(Opened::Ready(dress(response.map(|body| body.within(span)), cache)))
}

/// Compresses a NAR for one client.
async fn encode(
    app: &Arc<App>,
    cache: &Cache,
    found: Found,
    span: Span,
    want: Want,
) -> Result<Response<Body>, Problem> {
    let encoding = permit(&app.encoders, PATIENCE, After::Headers).await?;
    let turn = download_turn(app, want).await?;
    let shared = Arc::clone(app);
    let body = work(app, After::Headers, move || {
        let body = span.in_scope(|| encoded(&shared, &found, encoding))?;
        Ok(body.within(span))
    });
    Ok(dress(Response::new(body.await?.holding(turn)), cache))
}

/// Says what an answer is and how long it may be kept.
fn dress(mut response: Response<Body>, cache: &Cache) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    headers.insert(http::header::CACHE_CONTROL, Caching::Immutable.of(cache));
    response
}

/// Begins the span of a restore: from the look at its packs to the last of its pieces.
pub(super) fn restoring(bytes: u64) -> Span {
    tracing::info_span!(target: spans::TARGET, "restore", firn.bytes = spans::number(bytes))
}

/// Restores a part of a NAR, of which a range may be asked.
pub(super) fn identity(app: &Arc<App>, row: &NarRow, part: Range<u64>, want: Want) -> Result<Response<Body>, Problem> {
    let total = part.end - part.start;
    let range = match want.asked.map_or(Wanted::Whole, |asked| asked.of(total)) {
        Wanted::Whole => None,
        Wanted::Part(range) => Some(range),
        Wanted::Unsatisfiable => return Err(Problem::Range { total }),
    };
    let wanted = range.clone().unwrap_or(0..total);
    let bytes = part.start + wanted.start..part.start + wanted.end;
    let length = wanted.end - wanted.start;
    let fail = |error| failed(app, error, After::Headers);
    let mut restore = app.engine.restore(&row.recipe, &row.slots, bytes).map_err(fail)?;
    // Damage in it is found before the status line is sent.
    let first = if want.head_only { None } else { restore.read(PIECE_BYTES).map_err(fail)? };
    let body = if length <= PIECE_BYTES as u64 && !want.head_only {
        Body::full(first.unwrap_or_default())
    } else {
        Body::pull(first, Box::new(Identity { app: Arc::clone(app), restore }), Some(length))
    };
    Ok(resumable(body, range, total))
}

/// Encodes a NAR as zstd, of which a range may be asked.
fn zstd(app: &Arc<App>, found: &Found, want: Want) -> Result<Response<Body>, Problem> {
    let fail = |error| failed(app, error, After::Headers);
    let open =
        |start| app.engine.restore_zstd(&found.nar_hash, &found.row.recipe, &found.row.slots, start).map_err(fail);
    let Some(asked) = want.asked else {
        let mut restore = open(0)?;
        let mut total = restore.total();
        if total.is_none() && !want.takes_chunks && !want.head_only {
            total = open(1)?.total();
        }
        // Its own, not the next few: nobody waits for more before the first byte.
        let first = if want.head_only { None } else { restore.next().map_err(fail)? };
        let source = Zstd { app: Arc::clone(app), restore, left: u64::MAX };
        let mut response = Response::new(source.after(first, total));
        response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        return Ok(response);
    };
    // The total is known only of what begins in the middle, so a range from 0 is looked at from 1.
    let guess = match asked {
        Asked::From(first) | Asked::Between(first, _) => first.max(1),
        Asked::Last(_) => 1,
    };
    let mut restore = open(guess)?;
    let total = restore.total().ok_or(Problem::Internal(After::Headers))?;
    let range = match asked.of(total) {
        Wanted::Part(range) => range,
        Wanted::Whole | Wanted::Unsatisfiable => return Err(Problem::Range { total }),
    };
    if range.start != guess {
        restore = open(range.start)?;
    }
    let length = range.end - range.start;
    let mut source = Zstd { app: Arc::clone(app), restore, left: length };
    let first = source.take(1).map_err(fail)?;
    Ok(resumable(source.after(first, Some(length)), Some(range), total))
}

fn whole(app: &App, found: &Found) -> Result<Restore, Problem> {
    let restore = app.engine.restore(&found.row.recipe, &found.row.slots, 0..found.row.nar_size);
    restore.map_err(|error| failed(app, error, After::Headers))
}

fn encoded(app: &Arc<App>, found: &Found, turn: OwnedSemaphorePermit) -> Result<Body, Problem> {
    let restore = whole(app, found)?;
    let encoder = Encoder::new(found.codec).map_err(|error| Problem::internal(&error, After::Headers))?;
    let source = Encoded { app: Arc::clone(app), restore, encoder: Some(encoder), _turn: turn };
    Ok(Body::pull(None, Box::new(source), None))
}

/// Returns a 200 or, of a range, a 206 whose client may ask for other ranges.
fn resumable(body: Body, range: Option<Range<u64>>, total: u64) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(range) = range {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        // Never empty: see `Wanted::Part`.
        let value = format!("bytes {}-{}/{total}", range.start, range.end.saturating_sub(1));
        let value = HeaderValue::from_str(&value).expect("digits are a header value");
        response.headers_mut().insert(CONTENT_RANGE, value);
    }
    response
}

fn broken(app: &App, error: firn_engine::Error) -> Broken {
    notice(app, &error);
    Broken::Source(Box::new(error))
}

/// Bytes as they were uploaded.
pub(super) struct Identity {
    pub(super) app: Arc<App>,
    pub(super) restore: Restore,
}

impl Source for Identity {
    fn next(&mut self) -> Result<VecDeque<Bytes>, Broken> {
        let (mut pieces, mut bytes) = (VecDeque::new(), 0);
        while bytes < LATER_BYTES
            && let Some(piece) = self.restore.next(LATER_BYTES - bytes).map_err(|error| broken(&self.app, error))?
        {
            bytes += piece.len();
            pieces.push_back(piece);
        }
        Ok(pieces)
    }
}

/// The zstd form, or the first `left` bytes from where it begins.
struct Zstd {
    app: Arc<App>,
    restore: ZstdRestore,
    left: u64,
}

impl Zstd {
    /// Takes the next frames, or what is wanted of them.
    fn take(&mut self, frames: usize) -> firn_engine::Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        let Some(mut piece) = self.restore.next_few(frames)? else { return Ok(None) };
        piece.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= piece.len() as u64;
        Ok(Some(piece).filter(|piece| !piece.is_empty()))
    }

    /// Returns the body that begins with `first`, of `length` bytes if that is known.
    fn after(self, first: Option<Bytes>, length: Option<u64>) -> Body {
        match first {
            Some(all) if length == Some(all.len() as u64) => Body::full(all),
            first => Body::pull(first, Box::new(self), length),
        }
    }
}

impl Source for Zstd {
    fn next(&mut self) -> Result<VecDeque<Bytes>, Broken> {
        // As much of the NAR as the pieces of the other form, unless one frame may be all that is asked for.
        let frames = if self.left > TransportPiece::MAX_BYTES as u64 { LATER_FRAMES } else { 1 };
        let pieces = self.take(frames).map_err(|error| broken(&self.app, error))?;
        Ok(pieces.into_iter().collect())
    }
}

/// Bytes compressed anew.
struct Encoded {
    app: Arc<App>,
    restore: Restore,
    /// Gone once the stream was ended.
    encoder: Option<Encoder>,
    /// Not the body's: whose client is gone while a piece is made goes on computing to its end.
    _turn: OwnedSemaphorePermit,
}

impl Source for Encoded {
    fn next(&mut self) -> Result<VecDeque<Bytes>, Broken> {
        let broken_off = |error: std::io::Error| Broken::Source(Box::new(error));
        while let Some(encoder) = &mut self.encoder {
            match self.restore.next(PIECE_BYTES).map_err(|error| broken(&self.app, error))? {
                Some(piece) => {
                    encoder.write(&piece).map_err(broken_off)?;
                    let ready = encoder.take();
                    if !ready.is_empty() {
                        return Ok([ready.into()].into());
                    }
                }
                None => {
                    let last = self.encoder.take().map_or(Ok(Vec::new()), Encoder::finish).map_err(broken_off)?;
                    return Ok(Some(Bytes::from(last)).into_iter().filter(|last| !last.is_empty()).collect());
                }
            }
        }
        Ok(VecDeque::new())
    }
}
