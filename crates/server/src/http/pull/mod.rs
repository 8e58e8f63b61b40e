//! Pull-through: what a cache lacks and an upstream has is passed on, and stored in the same pass.
//!
//! A narinfo is ours: signed by the cache, its URL one of our forms, with `?path=<store hash>` so that the NAR can be
//! asked for after a restart as well. A NAR is fetched once for all who want it ([`fetch`]), into a file from which each client is
//! sent at its own pace ([`spool`]). Nothing here is reached by a request for what the cache holds.

mod answers;
mod fetch;
mod spool;
mod way;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use firn_engine::{SMALL_NAR_BYTES, spans};
use firn_index::{CacheName, UnixSeconds};
use firn_nix::{NarInfo, Sha256, StoreHash, StorePath};
use http::header::{ACCEPT_RANGES, CONTENT_RANGE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::body::{Body, Broken};
use super::error::{After, Problem};
use super::range::Wanted;
use super::route::NarName;
use super::{Caching, PATIENCE, Want, ok, permit, turn_of};
use crate::app::App;
use crate::caches::Cache;
use crate::config::{Config, UpstreamConfig};
use crate::turns::{Turn, Turns};
use answers::{Answers, Offer};
use fetch::{Fetch, Progress, State};
use spool::Form;
use way::Marks;
pub(super) use way::Way;

/// How long a client waits at most until a NAR begins to come. Each step on the way has a limit of its own.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// How much a client is sent at a time.
const PIECE_BYTES: usize = 512 << 10;
/// The unit in which room for spools is counted.
const ROOM_BYTES: u64 = 1 << 20;
const DAY_SECONDS: u64 = 86_400;

/// What pull-through keeps in memory.
pub(crate) struct Pull {
    answers: Answers,
    marks: Marks,
    fetches: Mutex<HashMap<(CacheName, Sha256), Arc<Fetch>>>,
    /// Fetches under way.
    turns: Arc<Semaphore>,
    /// Clients that are sent what is being fetched: these don't take the turns of those who are sent what is held.
    clients: Turns<IpAddr>,
    /// Room for spools, in units of [`ROOM_BYTES`].
    room: Arc<Semaphore>,
    spool_folder: PathBuf,
    spent: Mutex<HashMap<CacheName, (u64, u64)>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Pull {
    /// The number tells this server from every other one.
    pub(crate) fn new(config: &Config, server: u128) -> Self {
        let UpstreamConfig { max_fetches, max_clients, spool_size, .. } = config.upstream;
        let folder = config.server.data.as_ref().map_or_else(std::env::temp_dir, |data| data.join("spool"));
        let room = usize::try_from(spool_size.0 / ROOM_BYTES).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self {
            answers: Answers::new(&config.upstream),
            marks: Marks::new(server),
            fetches: Mutex::default(),
            turns: Arc::new(Semaphore::new(max_fetches)),
            clients: Turns::new(max_clients),
            room: Arc::new(Semaphore::new(room)),
            spool_folder: folder,
            spent: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Breaks off what is being fetched, and waits for it.
    pub(crate) async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn running(&self, key: &(CacheName, Sha256)) -> Option<Arc<Fetch>> {
        let fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        fetches.get(key).filter(|fetch| !fetch.has_failed()).cloned()
    }

    /// Takes from what may be fetched in a day for those without a token; returns whether that is left.
    fn spend(&self, cache: &CacheName, bytes: u64, limit: u64, now: UnixSeconds) -> bool {
        let today = now / DAY_SECONDS;
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let (day, sum) = spent.entry(cache.clone()).or_insert((today, 0));
        if *day != today {
            (*day, *sum) = (today, 0);
        }
        let is_left = limit == 0 || sum.saturating_add(bytes) <= limit;
        if is_left {
            *sum = sum.saturating_add(bytes);
        }
        is_left
    }
}

/// Who asks, as far as limits differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// Someone with a token.
    Known,
    /// Anyone.
    Anonymous,
}

/// Answers for a narinfo that the cache lacks; `None` if no upstream has it.
pub(super) async fn narinfo(app: &Arc<App>, cache: &Arc<Cache>, hash: &StoreHash, way: &Way) -> Option<Bytes> {
    let offer = app.http.pull.answers.ask(app, cache, hash, way).await?;
    // What could not be fetched had better be looked for elsewhere.
    if offer.info.nar_size > largest(app) {
        return None;
    }
    Some(render(&offer.info, cache).into())
}

/// Returns the longest NAR that is fetched.
fn largest(app: &App) -> u64 {
    let upstream = &app.config.upstream;
    app.config.store.max_nar_size.0.min(upstream.max_nar_size.0).min(upstream.spool_size.0)
}

fn render(info: &NarInfo, cache: &Cache) -> String {
    let (url, compression, file_size) = super::narinfo::form(cache, &info.nar_hash, info.nar_size);
    let url = format!("{url}?path={}", info.store_path.hash());
    let mut ours = NarInfo { url, compression, file_size, file_hash: Some(info.nar_hash), ..info.clone() };
    ours.take_false_address(&cache.row.store_dir);
    let signed = cache.sign(&info.fingerprint(&cache.row.store_dir));
    ours.signatures.extend(signed.iter().filter_map(|signature| signature.parse().ok()));
    ours.to_text(&cache.row.store_dir)
}

/// Returns which of these paths upstreams have.
pub(super) async fn known(app: &App, cache: &Arc<Cache>, paths: Vec<StorePath>) -> Vec<StorePath> {
    let mut found = Vec::new();
    let Some(way) = app.http.pull.marks.first(cache) else { return found };
    for path in paths {
        let offer = app.http.pull.answers.ask(app, cache, &path.hash(), &way).await;
        if offer.is_some_and(|offer| offer.info.store_path == path) {
            found.push(path);
        }
    }
    found
}

/// Returns how a request goes on to the upstreams of a cache; `None` if the cache answers from what it holds, because there are none,
/// or the request came through it already or through too many others.
pub(super) fn onward(app: &App, cache: &Cache, headers: &HeaderMap) -> Option<Way> {
    if cache.proxies.is_empty() { None } else { app.http.pull.marks.onward(headers, cache) }
}

/// What the query of a NAR's URL says of its path.
pub(super) fn path_of(query: Option<&str>) -> Option<StoreHash> {
    query?.split('&').find_map(|pair| pair.strip_prefix("path="))?.parse().ok()
}

/// A NAR that an upstream may have.
pub(super) enum Nar {
    /// The answer.
    Passed(Box<Response<Body>>),
    /// The cache has it by now.
    Here,
}

/// Answers for a NAR that the cache lacks.
pub(super) async fn nar(
    app: &Arc<App>,
    cache: &Arc<Cache>,
    name: &NarName,
    (path, way): (&StoreHash, &Way),
    want: Want,
    asker: Asker,
) -> Result<Nar, Problem> {
    const ABSENT: Problem = Problem::NotFound("this NAR");
    let form = match name.extension() {
        "" => Form::Identity,
        "zst" => Form::Zstd,
        _ => return Err(ABSENT),
    };
    let nar_hash = name.hash().ok_or(ABSENT)?;
    let client = turn_of(&app.http.pull.clients, want).await?;
    let fetch = match app.http.pull.running(&(cache.name.clone(), nar_hash)) {
        Some(fetch) => fetch,
        None => {
            let offer = app.http.pull.answers.ask(app, cache, path, way).await;
            let offer = offer.filter(|offer| offer.info.nar_hash == nar_hash).ok_or(ABSENT)?;
            if want.head_only {
                let total = (form == Form::Identity).then_some(offer.info.nar_size);
                return Ok(Nar::Passed(Box::new(respond(cache, Body::absent(total)))));
            }
            begin(app, cache, (offer, way), asker)?
        }
    };
    // A small NAR is given to nobody before all of it is here. One that is wrong is a 404 then, and the client tries its next cache
    // at once, where it would begin a broken one anew again and again; and as when it is stored, its zstd form has a length.
    let is_enough = |progress: &Progress| match progress.state {
        State::Begun => false,
        State::Running => fetch.nar_size > SMALL_NAR_BYTES,
        State::Whole | State::Here | State::Crowded | State::Failed => true,
    };
    let progress = wait(&fetch, is_enough).await?;
    match progress.state {
        State::Failed | State::Begun => Err(ABSENT),
        State::Crowded => Err(Problem::Busy(After::Headers)),
        State::Here => Ok(Nar::Here),
        State::Running | State::Whole => {
            follow(cache, &fetch, form, want, client).await.map(|response| Nar::Passed(Box::new(response)))
        }
    }
}

/// Waits for a step of a fetch.
async fn wait(fetch: &Fetch, is_enough: impl FnMut(&Progress) -> bool) -> Result<Progress, Problem> {
    let mut progress = fetch.progress();
    let found = match tokio::time::timeout(LONGEST_WAIT, progress.wait_for(is_enough)).await {
        Ok(Ok(found)) => *found,
        // It can't end without a last word while somebody holds it.
        Ok(Err(_)) | Err(_) => return Err(Problem::Busy(After::Headers)),
    };
    Ok(found)
}

/// Begins to fetch a NAR, unless that is under way.
fn begin(
    app: &Arc<App>,
    cache: &Arc<Cache>,
    (offer, way): (Arc<Offer>, &Way),
    asker: Asker,
) -> Result<Arc<Fetch>, Problem> {
    let pull = &app.http.pull;
    if offer.info.nar_size > largest(app) {
        return Err(Problem::NotFound("a NAR of a size that is fetched"));
    }
    let key = (cache.name.clone(), offer.info.nar_hash);
    let mut fetches = pull.fetches.lock().unwrap_or_else(PoisonError::into_inner);
    // A client that was broken off comes again sooner than the failed one is gone.
    if let Some(fetch) = fetches.get(&key).filter(|fetch| !fetch.has_failed()) {
        return Ok(Arc::clone(fetch));
    }
    let limit = app.config.upstream.anonymous_daily.0;
    if asker == Asker::Anonymous && !pull.spend(&cache.name, offer.info.nar_size, limit, app.now()) {
        tracing::warn!(cache = %cache.name, "no more is fetched today for those without a token: see upstream.anonymous-daily");
        return Err(Problem::NotFound("a NAR that is fetched today for those without a token"));
    }
    let fetch = Arc::new(Fetch::new(cache, &offer, way.clone()));
    fetches.insert(key, Arc::clone(&fetch));
    drop(fetches);
    // Whatever becomes of the clients, it goes on.
    let span = tracing::info_span!(target: spans::TARGET, "fetch", firn.bytes = spans::number(fetch.nar_size));
    pull.tasks.spawn(fetch_for_all(Arc::clone(app), Arc::clone(cache), offer, Arc::clone(&fetch)).instrument(span));
    Ok(fetch)
}

/// Waits for a turn and room, and fetches a NAR; then nobody finds it any more but those who have it.
async fn fetch_for_all(app: Arc<App>, cache: Arc<Cache>, offer: Arc<Offer>, fetch: Arc<Fetch>) {
    let pull = &app.http.pull;
    let units = u32::try_from(fetch.nar_size / ROOM_BYTES + 1).unwrap_or(u32::MAX);
    let work = async {
        let turn = permit(&pull.turns, PATIENCE, After::Headers).await;
        let room = tokio::time::timeout(PATIENCE, Arc::clone(&pull.room).acquire_many_owned(units)).await;
        let (Ok(_turn), Ok(Ok(room))) = (turn, room) else { return fetch.set(State::Crowded) };
        fetch.take_room(room);
        fetch::run(&app, &cache, &offer, &fetch).await;
    };
    tokio::select! {
        () = work => {}
        () = pull.stop.cancelled() => fetch.fail(),
    }
    let key = (fetch.cache.clone(), fetch.nar_hash);
    let mut fetches = pull.fetches.lock().unwrap_or_else(PoisonError::into_inner);
    if fetches.get(&key).is_some_and(|known| Arc::ptr_eq(known, &fetch)) {
        fetches.remove(&key);
    }
}

/// Sends a client what comes.
async fn follow(
    cache: &Cache,
    fetch: &Arc<Fetch>,
    form: Form,
    want: Want,
    client: Turn<IpAddr>,
) -> Result<Response<Body>, Problem> {
    let mut now = *fetch.progress().borrow();
    if form == Form::Zstd && want.asked.is_some() {
        // Of a part, the length of the whole has to be told.
        now = wait(fetch, |progress| !matches!(progress.state, State::Begun | State::Running)).await?;
    }
    let total = match form {
        Form::Identity => Some(fetch.nar_size),
        Form::Zstd => (now.state == State::Whole).then_some(now.encoded_bytes),
    };
    let part = match (want.asked, total) {
        (Some(asked), Some(total)) => match asked.of(total) {
            Wanted::Whole => None,
            Wanted::Part(range) => Some(range),
            Wanted::Unsatisfiable => return Err(Problem::Range { total }),
        },
        (Some(_), None) => return Err(Problem::NotFound("this NAR")),
        (None, _) => None,
    };
    let (start, end) = part.as_ref().map_or((0, None), |range| (range.start, Some(range.end)));
    let length = part.as_ref().map_or(total, |range| Some(range.end - range.start));
    let body = if want.head_only {
        Body::absent(length)
    } else {
        let (sender, pieces) = mpsc::channel(1);
        Body::followed(send(Arc::clone(fetch), form, start, end, sender), pieces, length)
    };
    let mut response = respond(cache, body.holding(client));
    if let (Some(range), Some(total)) = (part, total) {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let value = format!("bytes {}-{}/{total}", range.start, range.end.saturating_sub(1));
        let value = HeaderValue::from_str(&value).expect("digits are a header value");
        response.headers_mut().insert(CONTENT_RANGE, value);
    }
    Ok(response)
}

fn respond(cache: &Cache, body: Body) -> Response<Body> {
    let mut response = ok(body, super::nar::CONTENT_TYPE, Caching::Immutable.of(cache));
    response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

/// Sends what comes from byte `at` on, up to before `end`, or all of it.
async fn send(
    fetch: Arc<Fetch>,
    form: Form,
    mut at: u64,
    end: Option<u64>,
    sender: mpsc::Sender<Bytes>,
) -> Result<(), Broken> {
    let mut progress = fetch.progress();
    loop {
        let now = *progress.borrow_and_update();
        let come = match form {
            Form::Identity => now.raw_bytes,
            Form::Zstd => now.encoded_bytes,
        };
        let until = end.map_or(come, |end| end.min(come));
        if at < until {
            let source = Arc::clone(&fetch);
            let read = move || source.spool()?.read(form, at, until, PIECE_BYTES);
            let piece = tokio::task::spawn_blocking(read).await.map_err(|_| Broken::Panicked)?;
            let piece = piece.map_err(|error| Broken::Source(Box::new(error)))?;
            at += piece.len() as u64;
            if sender.send(piece).await.is_err() {
                return Ok(());
            }
            continue;
        }
        if Some(at) == end || matches!(now.state, State::Whole | State::Here) {
            return Ok(());
        }
        // The sender lives as long as the fetch, of which we hold a part; what fails says so.
        if matches!(now.state, State::Failed | State::Crowded) || progress.changed().await.is_err() {
            return Err(Broken::Source("what comes from upstream broke off, or is not what it should be".into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_path_of_a_query() {
        let hash = "0fanvwfh6772nmhmbw78d8jmj0dr6lpc";
        assert_eq!(path_of(Some(&format!("path={hash}"))), hash.parse().ok());
        assert_eq!(path_of(Some(&format!("a=b&path={hash}&c"))), hash.parse().ok());
        for bad in [None, Some(""), Some("path="), Some("path=x"), Some("paths=0fanvwfh6772nmhmbw78d8jmj0dr6lpc")] {
            assert_eq!(path_of(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_day_has_its_limit_and_the_next_one_its_own() {
        let pull = Pull::new(&Config::default(), 1);
        let name: CacheName = "c".parse().unwrap();
        let day = 5 * DAY_SECONDS;
        assert!(pull.spend(&name, 60, 100, day) && pull.spend(&name, 40, 100, day + 9));
        assert!(!pull.spend(&name, 1, 100, day + DAY_SECONDS - 1));
        assert!(pull.spend(&"d".parse().unwrap(), 100, 100, day));
        assert!(pull.spend(&name, 100, 100, day + DAY_SECONDS));
        assert!(pull.spend(&name, 100, 0, day + DAY_SECONDS), "no limit");
    }
}
