//! An HTTP binary cache that tells what it has: another firn, page by page, or any cache with a plain list of its paths.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use firn_index::SourceCursor;
use firn_nix::{NarInfo, StoreHash, StorePath};
use firn_nix_store::{PathInfo, Selection, UnreadableRow};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::peer::{Listing, NarError, Peer, SyncError, source_error, steps_by_name, steps_by_time};
use super::place::HttpPlace;
use super::run::Run;
use super::seen::{MAX_NAMES, Seen};
use crate::binary_cache::{BinaryCache, FetchError, NarFile, Patience};
use crate::file_cache::path_info;
use crate::http::codec::decoder;

/// Narinfos that are asked for at once.
const AT_ONCE: usize = 16;

/// Narinfos that are kept in memory between what is asked of a path and its NAR.
const KEPT: usize = 4000;

/// Pages of another firn's list that are read at most: a page may be empty, as it stands for some thousand rows.
const MAX_PAGES: usize = 100_000;

/// The longest plain list, in bytes after decompression: some 2 million names.
const MAX_LIST_BYTES: u64 = 256 << 20;

/// The longest line of a plain list, in bytes.
const MAX_LINE_BYTES: u64 = 4096;

pub(super) struct HttpCache {
    /// What is asked runs here, while this thread waits.
    runtime: Runtime,
    cache: BinaryCache,
    list: Option<String>,
    store_dir: String,
    /// What was read of late.
    infos: BTreeMap<StoreHash, NarInfo>,
    /// Bytes of a plain list that came.
    list_bytes: u64,
    run: Arc<Run>,
}

impl HttpCache {
    /// Asks the cache what it is.
    pub(super) fn open(place: &HttpPlace, store_dir: &str, run: &Arc<Run>) -> Result<Self, SyncError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| SyncError::Store(format!("prepare to ask an HTTP cache: {error}")))?;
        let cache = BinaryCache::new(&place.url, Patience::default(), place.token_file.clone());
        let this = Self {
            runtime,
            cache: cache.map_err(|error| source_error(&error))?,
            list: place.list.clone(),
            store_dir: store_dir.to_owned(),
            infos: BTreeMap::new(),
            list_bytes: 0,
            run: Arc::clone(run),
        };
        let info = this.wait(this.cache.info())?.map_err(|error| match error {
            FetchError::Status { status: 404, .. } => SyncError::Source(format!(
                "use {}: it has no nix-cache-info for us; is the URL a cache's, and does its token read it?",
                place.url
            )),
            error => source_error(&error),
        })?;
        match info.store_dir {
            Some(found) if found != store_dir => Err(SyncError::Source(format!(
                "use {}: its store directory is {found}, and the cache's is {store_dir}",
                place.url
            ))),
            _ => Ok(this),
        }
    }

    /// Waits for an answer, or for somebody to stop the sync.
    fn wait<T>(&self, answer: impl Future<Output = T>) -> Result<T, SyncError> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.run.stopped() => Err(SyncError::Stopped),
                answer = answer => Ok(answer),
            }
        })
    }

    /// Lists what came to another firn's cache since a time by its clock.
    fn list_pages(&self, since: u64) -> Result<Listing, SyncError> {
        let malformed = |what: String| SyncError::Source(format!("list {}: {what}", self.cache.url()));
        let (mut until, mut after, mut paths) = (None, None, Vec::new());
        for _ in 0..MAX_PAGES {
            let page = self.wait(self.cache.paths(since, after))?.map_err(|error| source_error(&error))?;
            let Some(page) = page else {
                return Err(SyncError::Source(format!(
                    "list {}: it gives no list: either it is no firn that does, or the token may not read it; with ?list=URL a \
                     plain list of store paths is read",
                    self.cache.url()
                )));
            };
            for listed in page.paths {
                let path = StorePath::from_base_name(&listed.path);
                paths.push((listed.committed_at, path.map_err(|error| malformed(error.to_string()))?));
            }
            check_count(paths.len(), self.cache.url())?;
            let until = *until.get_or_insert(page.until);
            let Some(next) = page.next else {
                // By a clock that was set back, what is new can't be told from what is not.
                return if since > until { self.list_pages(0) } else { Ok(by_time(paths, until)) };
            };
            let next: Option<StoreHash> = next.parse().ok();
            let next = next.filter(|next| after.is_none_or(|after| after.0 < next.0));
            after = Some(next.ok_or_else(|| malformed("its next page is none".to_owned()))?);
        }
        Err(malformed(format!("it has more than {MAX_PAGES} pages")))
    }

    /// Reads a plain list whole, and compares it with what was seen.
    fn list_whole(&mut self, url: &str, seen: &Seen) -> Result<Listing, SyncError> {
        let fail = |why: String| SyncError::Source(format!("read the list {url}: {why}"));
        let file = self.wait(self.cache.file(url))?.map_err(|error| source_error(&error))?;
        let file = file.ok_or_else(|| fail("it is not there".to_owned()))?;
        let codec = file.codec;
        let mut body = Coming::new(self, file);
        let lines = decoder(codec, BufReader::with_capacity(256 << 10, &mut body));
        let lines = lines.map_err(|error| fail(error.to_string()))?.take(MAX_LIST_BYTES + 1);
        let paths = read_list(lines, &self.store_dir);
        let (received, trouble) = (body.received, body.trouble.take());
        self.list_bytes += received;
        if self.run.is_stopped() {
            return Err(SyncError::Stopped);
        }
        let paths = match trouble {
            Some(error) => return Err(source_error(&error)),
            None => paths.map_err(fail)?,
        };
        check_count(paths.len(), url)?;
        Ok(steps_by_name(paths, seen))
    }

    fn remember(&mut self, info: NarInfo) {
        if self.infos.len() >= KEPT {
            self.infos.clear();
        }
        self.infos.insert(info.store_path.hash(), info);
    }
}

fn by_time(paths: Vec<(u64, StorePath)>, until: u64) -> Listing {
    Listing { steps: steps_by_time(paths, until), seen: None }
}

fn check_count(paths: usize, url: &str) -> Result<(), SyncError> {
    if paths > MAX_NAMES {
        return Err(SyncError::Source(format!("list {url}: it has more than {MAX_NAMES} paths")));
    }
    Ok(())
}

/// Reads store paths, one a line. A line that is none makes the list useless: what else is wrong with it, nobody knows.
fn read_list(lines: impl Read, store_dir: &str) -> Result<Vec<StorePath>, String> {
    let (mut lines, mut line, mut paths, mut bytes) = (BufReader::new(lines), String::new(), Vec::new(), 0);
    loop {
        line.clear();
        let len = (&mut lines).take(MAX_LINE_BYTES).read_line(&mut line).map_err(|error| error.to_string())?;
        bytes += len as u64;
        if bytes > MAX_LIST_BYTES {
            return Err(format!("it is longer than {MAX_LIST_BYTES} bytes"));
        }
        if len == 0 {
            return Ok(paths);
        }
        let text = line.trim_end();
        if text.is_empty() {
            continue;
        }
        let path = StorePath::parse_absolute(text, store_dir);
        paths.push(path.map_err(|error| format!("its line {} is no store path: {error}", paths.len() + 1))?);
        if paths.len() > MAX_NAMES {
            return Ok(paths);
        }
    }
}

impl Peer for HttpCache {
    fn list(&mut self, since: Option<&SourceCursor>, seen: &Seen) -> Result<Listing, SyncError> {
        match (self.list.clone(), since) {
            (Some(url), _) => self.list_whole(&url, seen),
            (None, Some(SourceCursor::Time(at))) => self.list_pages(*at),
            (None, _) => self.list_pages(0),
        }
    }

    fn infos(&mut self, paths: &[StorePath]) -> Result<Selection, SyncError> {
        let answers = self.wait(ask(&self.cache, &self.store_dir, paths))?.map_err(|error| source_error(&error))?;
        let mut all = Selection::default();
        for (path, answer) in answers {
            match answer {
                Ok(Some(info)) if info.store_path == path => {
                    all.paths.push(path_info(&info));
                    self.remember(info);
                }
                Ok(_) => all.absent.push(path),
                Err(why) => all.unreadable.push(UnreadableRow { id: 0, path: path.to_string(), why }),
            }
        }
        Ok(all)
    }

    fn keep(&mut self, _path: &StorePath) -> Result<(), NarError> {
        Ok(())
    }

    fn nar(&mut self, info: &PathInfo, out: &mut dyn Write) -> Result<(), NarError> {
        let stopped = |error: SyncError| NarError::Lost(error.to_string());
        let narinfo = match self.infos.get(&info.path.hash()) {
            Some(narinfo) => Some(narinfo.clone()),
            None => self
                .wait(self.cache.narinfo(&info.path.hash(), &self.store_dir))
                .map_err(stopped)?
                .map_err(nar_error)?,
        };
        let narinfo = narinfo.ok_or_else(|| NarError::Gone("its narinfo is gone".to_owned()))?;
        let file = self.wait(self.cache.nar(&narinfo)).map_err(stopped)?.map_err(nar_error)?;
        let file = file.ok_or_else(|| NarError::Gone("the file of its NAR is gone".to_owned()))?;
        let codec = file.codec;
        let mut body = Coming::new(self, file);
        let copied = decoder(codec, BufReader::with_capacity(256 << 10, &mut body)).and_then(|nar| {
            // One byte more tells a NAR that is too long.
            io::copy(&mut nar.take(info.nar_size.saturating_add(1)), out)
        });
        match (body.trouble, copied) {
            (Some(error), _) => Err(nar_error(error)),
            (None, Err(error)) => Err(NarError::Broken(error.to_string())),
            (None, Ok(_)) => Ok(()),
        }
    }

    fn is_closed(&self) -> bool {
        false
    }

    fn metadata_bytes(&self) -> u64 {
        self.cache.answer_bytes().saturating_add(self.list_bytes)
    }
}

/// What is known of a path; `Err` says why it can't be read.
type Answer = (StorePath, Result<Option<NarInfo>, String>);

/// Asks for narinfos, some at once. An outage ends it.
async fn ask(cache: &BinaryCache, store_dir: &str, paths: &[StorePath]) -> Result<Vec<Answer>, FetchError> {
    let (mut todo, mut asked, mut answers) = (paths.iter(), JoinSet::new(), Vec::with_capacity(paths.len()));
    loop {
        while asked.len() < AT_ONCE
            && let Some(path) = todo.next()
        {
            let (cache, store_dir, path) = (cache.clone(), store_dir.to_owned(), path.clone());
            asked.spawn(async move {
                let answer = cache.narinfo(&path.hash(), &store_dir).await;
                (path, answer)
            });
        }
        match asked.join_next().await {
            None => return Ok(answers),
            Some(Ok((path, Ok(info)))) => answers.push((path, Ok(info))),
            Some(Ok((_, Err(error)))) if error.is_outage() => return Err(error),
            Some(Ok((path, Err(error)))) => answers.push((path, Err(error.to_string()))),
            // Nothing cancels them; one that panicked takes us along.
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

fn nar_error(error: FetchError) -> NarError {
    let text = error.to_string();
    if error.is_outage() { NarError::Lost(text) } else { NarError::Broken(text) }
}

/// A file on its way here, as a reader that waits.
struct Coming<'a> {
    from: &'a HttpCache,
    file: NarFile,
    rest: Bytes,
    received: u64,
    /// Why it broke off, if it did.
    trouble: Option<FetchError>,
}

impl<'a> Coming<'a> {
    fn new(from: &'a HttpCache, file: NarFile) -> Self {
        Self { from, file, rest: Bytes::new(), received: 0, trouble: None }
    }
}

impl Read for Coming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            match self.from.wait(self.file.next()) {
                Ok(Ok(Some(more))) => self.rest = more,
                Ok(Ok(None)) => return Ok(0),
                Ok(Err(error)) => {
                    let text = error.to_string();
                    self.trouble = Some(error);
                    return Err(io::Error::other(text));
                }
                Err(error) => return Err(io::Error::other(error.to_string())),
            }
            self.received += self.rest.len() as u64;
        }
        let len = buffer.len().min(self.rest.len());
        self.rest.split_to(len).copy_to_slice(&mut buffer[..len]);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "0fanvwfh6772nmhmbw78d8jmj0dr6lpc-top";

    #[test]
    fn a_list_has_one_path_a_line() {
        let read = |text: &str| read_list(text.as_bytes(), "/nix/store");
        let text = format!("/nix/store/{NAME}\n\n/nix/store/{NAME}-2\r\n/nix/store/{NAME}-3");
        let paths = read(&text).unwrap();
        let names: Vec<_> = paths.iter().map(StorePath::name).collect();
        assert_eq!(names, ["top", "top-2", "top-3"]);
        assert_eq!(read(""), Ok(vec![]));
        for bad in [format!("{NAME}\n"), "<html>\n".to_owned(), format!("/nix/store/{NAME}\n/gnu/store/{NAME}\n")] {
            assert!(read(&bad).unwrap_err().contains("is no store path"), "{bad}");
        }
        let long = "x".repeat(10_000);
        assert!(read(&long).is_err());
    }
}
