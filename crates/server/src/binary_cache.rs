//! Another HTTP binary cache, as its client: what it says of itself, narinfos, and the files of NARs.
//!
//! What comes from there is bounded and has time limits, and nothing of it is believed here: signatures and hashes are the
//! caller's to check.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use firn_api::{Endpoint, PathList, ROOT_CACHE};
use firn_nix::{CacheInfo, MAX_CACHE_INFO_LEN, MAX_NARINFO_LEN, NarInfo, StoreHash};
use http_body_util::BodyExt as _;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{StatusCode, Url};

use crate::error_chain;
use crate::http::codec::{Codec, Unsupported};

/// Redirects that are followed: caches keep their NARs with others, one or two steps away.
const MAX_REDIRECTS: usize = 5;
/// How long an idle connection is kept: longer than the pauses within a build, shorter than most servers' patience.
const IDLE_CONNECTION: Duration = Duration::from_secs(50);
/// The longest file with a token, in bytes.
const MAX_TOKEN_BYTES: u64 = 4096;
/// The longest page of a list of paths, in bytes: ten thousand of the longest names.
const MAX_PAGE_BYTES: usize = 4 << 20;

/// How long to wait for another cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Patience {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// From a request until its answer begins.
    pub first_byte: Duration,
    /// For the next bytes of an answer.
    pub idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), first_byte: Duration::from_secs(15), idle: Duration::from_secs(30) }
    }
}

/// Why something could not be got from another cache.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// There is no such cache, by its URL or its settings: nothing was sent.
    #[error("use the cache {url}: {detail}")]
    Unusable {
        /// The cache's URL.
        url: String,
        /// What is wrong with it.
        detail: String,
    },
    /// No answer came, or it broke off.
    #[error("get {url}: {detail}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Why.
        detail: String,
    },
    /// It took too long.
    #[error("get {url}: {what} took longer than {} s", limit.as_secs_f32())]
    TooSlow {
        /// What was asked for.
        url: String,
        /// What took too long.
        what: &'static str,
        /// How long it may take.
        limit: Duration,
    },
    /// The answer is neither that it is there nor that it is not.
    #[error("get {url}: the answer is {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The answer's status.
        status: u16,
    },
    /// The answer is not what it should be.
    #[error("read {url}: {detail}")]
    Malformed {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        detail: String,
    },
}

impl FetchError {
    /// Returns whether the cache itself is in trouble, rather than one of its files.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unusable { .. } | Self::Unreachable { .. } | Self::TooSlow { .. } | Self::Status { .. } => true,
            Self::Malformed { .. } => false,
        }
    }
}

/// Another HTTP binary cache. Keeps connections; cheap to clone.
///
/// Proxies are taken from the environment (`https_proxy`, `no_proxy` and so on). Redirects are followed, but never from HTTPS
/// to HTTP.
#[derive(Clone)]
pub struct BinaryCache {
    http: reqwest::Client,
    /// Ends in a slash.
    base: Url,
    shown: String,
    patience: Patience,
    token_file: Option<PathBuf>,
    answer_bytes: Arc<AtomicU64>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl BinaryCache {
    /// Returns the cache at a URL (`http://` or `https://`, without query); nothing is sent yet. The file, if there is one, holds a token: it
    /// is read again for each request and sent to the cache's own host alone.
    ///
    /// # Errors
    /// [`FetchError::Unusable`].
    pub fn new(url: &str, patience: Patience, token_file: Option<PathBuf>) -> Result<Self, FetchError> {
        let fail = |detail: String| FetchError::Unusable { url: url.to_owned(), detail };
        let base = parse_url(url).map_err(fail)?;
        let redirects = Policy::custom(|attempt| {
            let from_https = attempt.previous().first().is_some_and(|first| first.scheme() == "https");
            if attempt.previous().len() > MAX_REDIRECTS {
                attempt.error("too many redirects")
            } else if from_https && attempt.url().scheme() != "https" {
                attempt.error("a redirect leads from https to http")
            } else {
                attempt.follow()
            }
        });
        let http = reqwest::Client::builder()
            .user_agent(concat!("firnd/", env!("CARGO_PKG_VERSION")))
            .redirect(redirects)
            .connect_timeout(patience.connect)
            .pool_idle_timeout(IDLE_CONNECTION)
            .tcp_nodelay(true)
            .referer(false)
            .build()
            .map_err(|error| fail(causes(&error)))?;
        let shown = url.trim_end_matches('/').to_owned();
        Ok(Self { http, base, shown, patience, token_file, answer_bytes: Arc::default(), header: None })
    }

    /// Returns the same cache, to be asked with a header besides.
    #[must_use]
    pub fn with_header(&self, (name, value): &(HeaderName, HeaderValue)) -> Self {
        Self { header: Some((name.clone(), value.clone())), ..self.clone() }
    }

    /// Returns the cache's URL as it was given, without a final slash.
    pub fn url(&self) -> &str {
        &self.shown
    }

    /// Returns how many bytes the bodies of answers had so far that were not files, of all clones together.
    pub fn answer_bytes(&self) -> u64 {
        self.answer_bytes.load(Ordering::Relaxed)
    }

    /// Asks a firn for a page of the paths that came to this cache since a time by its clock; `None` if it gives no such list.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn paths(&self, since: u64, after: Option<StoreHash>) -> Result<Option<PathList>, FetchError> {
        // The API is beside the cache: `…/NAME/` has it at `…/api/`, and `/` at `/api/`.
        let name = self.base.path_segments().and_then(|parts| parts.rev().find(|part| !part.is_empty()));
        let target = Endpoint::Paths { since, after }.path(name.unwrap_or(ROOT_CACHE));
        let up = if name.is_some() { "../" } else { "" };
        let url = self.at(&format!("{up}{}", target.trim_start_matches('/')))?;
        let Some(text) = self.text(&url, MAX_PAGE_BYTES).await? else { return Ok(None) };
        let malformed =
            |error: serde_json::Error| FetchError::Malformed { url: url.to_string(), detail: error.to_string() };
        serde_json::from_slice(&text).map(Some).map_err(malformed)
    }

    /// Asks for `nix-cache-info`.
    ///
    /// # Errors
    /// [`FetchError`]; one that is not there is [`FetchError::Status`].
    pub async fn info(&self) -> Result<CacheInfo, FetchError> {
        let url = self.at("nix-cache-info")?;
        let text = self.text(&url, MAX_CACHE_INFO_LEN).await?;
        let text = text.ok_or_else(|| FetchError::Status { url: url.to_string(), status: 404 })?;
        let malformed = |detail: String| FetchError::Malformed { url: url.to_string(), detail };
        let text = std::str::from_utf8(&text).map_err(|error| malformed(error.to_string()))?;
        text.parse().map_err(|error: firn_nix::Error| malformed(error_chain(&error)))
    }

    /// Asks for a path's narinfo; `None` if the cache says that it does not have the path.
    ///
    /// # Errors
    /// [`FetchError`]; a narinfo of another path, too.
    pub async fn narinfo(&self, hash: &StoreHash, store_dir: &str) -> Result<Option<NarInfo>, FetchError> {
        let url = self.at(&format!("{hash}.narinfo"))?;
        let Some(text) = self.text(&url, MAX_NARINFO_LEN).await? else { return Ok(None) };
        let malformed = |detail: String| FetchError::Malformed { url: url.to_string(), detail };
        let info = NarInfo::parse(&text, store_dir).map_err(|error| malformed(error_chain(&error)))?;
        if info.store_path.hash() != *hash {
            return Err(malformed(format!("it is of {}", info.store_path)));
        }
        Ok(Some(info))
    }

    /// Asks for the file of a NAR; `None` if the cache says that it is not there. Returns when its first bytes may be read.
    ///
    /// # Errors
    /// [`FetchError`]; a narinfo that leads to another host, and a compression that we don't do, are [`FetchError::Malformed`].
    pub async fn nar(&self, info: &NarInfo) -> Result<Option<NarFile>, FetchError> {
        let url = self.nar_url(info)?;
        let malformed = |detail: String| FetchError::Malformed { url: url.to_string(), detail };
        let codec = Codec::from_name(info.compression.name())
            .map_err(|Unsupported(name)| malformed(format!("the compression '{name}' is not supported")))?;
        self.open(url, codec).await
    }

    /// Asks for any file, by a URL of its own or one seen from the cache, compressed as its name says; `None` if it is not there.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn file(&self, url: &str) -> Result<Option<NarFile>, FetchError> {
        let url = self.at(url)?;
        let extension = url.path().rsplit('/').next().and_then(|name| name.rsplit_once('.')).map(|(_, end)| end);
        let codec = extension.and_then(|end| Codec::from_extension(end).ok().flatten()).unwrap_or(Codec::Identity);
        self.open(url, codec).await
    }

    async fn open(&self, url: Url, codec: Codec) -> Result<Option<NarFile>, FetchError> {
        let malformed = |detail: String| FetchError::Malformed { url: url.to_string(), detail };
        let Some(answer) = self.get(&url).await? else { return Ok(None) };
        // Nobody asked for one, and what it would do to the file's compression is anybody's guess.
        if answer.headers().get(CONTENT_ENCODING).is_some_and(|encoding| encoding.as_bytes() != b"identity") {
            return Err(malformed("it has a Content-Encoding".to_owned()));
        }
        Ok(Some(NarFile { codec, idle: self.patience.idle, body: http::Response::from(answer).into_body(), url }))
    }

    /// Returns where a NAR is. The URL of a narinfo is not signed: it may not lead the server to other hosts.
    fn nar_url(&self, info: &NarInfo) -> Result<Url, FetchError> {
        let malformed = |detail: String| FetchError::Malformed { url: self.shown.clone(), detail };
        let absolute = info.url.contains("://");
        // Nix appends what begins with a slash as well.
        let text = if absolute { &info.url } else { info.url.trim_start_matches('/') };
        let url = self.base.join(text).map_err(|error| malformed(format!("its URL '{}': {error}", info.url)))?;
        if url.origin() != self.base.origin() {
            return Err(malformed(format!("the URL '{}' of a NAR leads to another host", info.url)));
        }
        Ok(url)
    }

    fn at(&self, path: &str) -> Result<Url, FetchError> {
        let fail = |detail: String| FetchError::Unusable { url: self.shown.clone(), detail };
        self.base.join(path).map_err(|error| fail(error.to_string()))
    }

    /// Reads a small answer; `None` if it is not there.
    async fn text(&self, url: &Url, limit: usize) -> Result<Option<Vec<u8>>, FetchError> {
        let Some(mut answer) = self.get(url).await? else { return Ok(None) };
        let mut text = Vec::new();
        loop {
            let piece = tokio::time::timeout(self.patience.idle, answer.chunk()).await;
            let piece = piece.map_err(|_| FetchError::TooSlow {
                url: url.to_string(),
                what: "the answer",
                limit: self.patience.idle,
            })?;
            let piece =
                piece.map_err(|error| FetchError::Unreachable { url: url.to_string(), detail: causes(&error) })?;
            let Some(piece) = piece else { return Ok(Some(text)) };
            if text.len() + piece.len() > limit {
                let detail = format!("it is longer than {limit} bytes");
                return Err(FetchError::Malformed { url: url.to_string(), detail });
            }
            self.answer_bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            text.extend_from_slice(&piece);
        }
    }

    /// Sends a request; `None` if the answer is that it is not there. 403 is what object stores say of absent files to those
    /// who may not list.
    async fn get(&self, url: &Url) -> Result<Option<reqwest::Response>, FetchError> {
        let mut request = self.http.get(url.clone());
        if let Some((name, value)) = &self.header {
            request = request.header(name, value);
        }
        let is_own = url.origin() == self.base.origin();
        if is_own && let Some(token) = self.token().await? {
            request = request.header(AUTHORIZATION, token);
        }
        let sent = tokio::time::timeout(self.patience.first_byte, request.send()).await;
        let sent = sent.map_err(|_| FetchError::TooSlow {
            url: url.to_string(),
            what: "the beginning of an answer",
            limit: self.patience.first_byte,
        })?;
        let answer = sent.map_err(|error| FetchError::Unreachable { url: url.to_string(), detail: causes(&error) })?;
        match answer.status() {
            StatusCode::OK => Ok(Some(answer)),
            StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::FORBIDDEN => Ok(None),
            other => Err(FetchError::Status { url: url.to_string(), status: other.as_u16() }),
        }
    }

    async fn token(&self) -> Result<Option<HeaderValue>, FetchError> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let fail = |detail: String| FetchError::Unusable {
            url: self.shown.clone(),
            detail: format!("read its token from {}: {detail}", path.display()),
        };
        let read = async {
            use tokio::io::AsyncReadExt as _;
            let mut text = String::new();
            tokio::fs::File::open(path).await?.take(MAX_TOKEN_BYTES).read_to_string(&mut text).await?;
            Ok::<_, std::io::Error>(text)
        };
        let text = read.await.map_err(|error| fail(error.to_string()))?;
        let value = HeaderValue::from_str(&format!("Bearer {}", text.trim()));
        let mut value = value.map_err(|_| fail("it has characters that no token has".to_owned()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl fmt::Debug for BinaryCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BinaryCache")
            .field("url", &self.shown)
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}

/// Checks the URL of a binary cache and returns it with a final slash; the error says what is wrong.
pub fn parse_url(text: &str) -> Result<Url, String> {
    let mut url = Url::parse(text).map_err(|error| format!("'{text}' is no URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(format!("'{text}' does not begin with http:// or https:// and a host"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("'{text}' has a query or fragment: give only where the cache is"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the URL holds a user name or password: put a token into a file of its own".to_owned());
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

/// A file on its way here, of a NAR or another one.
pub struct NarFile {
    /// How it is compressed.
    pub codec: Codec,
    /// Where it comes from.
    pub url: Url,
    /// How long it may stand still.
    pub(crate) idle: Duration,
    pub(crate) body: reqwest::Body,
}

impl NarFile {
    /// Waits for the next bytes; `None` at the end. Not to be called again after an error.
    ///
    /// # Errors
    /// [`FetchError::Unreachable`] when it breaks off, short of its `Content-Length` too; [`FetchError::TooSlow`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            let frame = tokio::time::timeout(self.idle, self.body.frame()).await;
            let url = || self.url.to_string();
            match frame {
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Ok(Some(data)),
                    Ok(_) | Err(_) => {}
                },
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => {
                    return Err(FetchError::Unreachable { url: url(), detail: causes(&error) });
                }
                Err(_) => return Err(FetchError::TooSlow { url: url(), what: "the next bytes", limit: self.idle }),
            }
        }
    }
}

/// Returns an error and its causes in one line, without the URL, which reqwest repeats.
pub(crate) fn causes(error: &reqwest::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let text = error.to_string();
        if parts.last() != Some(&text) {
            parts.push(text);
        }
        source = error.source();
    }
    if parts.is_empty() { "the request failed".to_owned() } else { parts.join(": ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(url: &str) -> BinaryCache {
        BinaryCache::new(url, Patience::default(), None).unwrap()
    }

    fn info(url: &str) -> NarInfo {
        let text = format!(
            "StorePath: /nix/store/0fanvwfh6772nmhmbw78d8jmj0dr6lpc-top\nURL: {url}\nCompression: none\n\
             NarHash: sha256:02by0f9myq6xi08bbr8ig0bf4w92r8vagh3k7hjk4al5xqxidq4i\nNarSize: 600\nReferences: \n"
        );
        NarInfo::parse(text.as_bytes(), "/nix/store").unwrap()
    }

    #[test]
    fn refuses_urls_that_are_no_caches() {
        for bad in ["", "x", "file:///x", "ssh://h", "http://", "http://h/?a=b", "http://h/#x", "http://u:p@h/"] {
            assert!(BinaryCache::new(bad, Patience::default(), None).is_err(), "{bad}");
        }
    }

    #[test]
    fn nars_are_found_below_the_cache_and_nowhere_else() {
        for (base, url, expected) in [
            ("http://h/c", "nar/x.nar", "http://h/c/nar/x.nar"),
            ("http://h/c/", "nar/x.nar?hash=y", "http://h/c/nar/x.nar?hash=y"),
            ("http://h/c", "/nar/x.nar", "http://h/c/nar/x.nar"),
            ("http://h", "http://h/other/x.nar", "http://h/other/x.nar"),
        ] {
            assert_eq!(cache(base).nar_url(&info(url)).unwrap().as_str(), expected);
        }
        for url in ["http://other/x.nar", "https://h/x.nar", "http://h:81/x.nar", "file:///etc/passwd"] {
            assert!(cache("http://h/c").nar_url(&info(url)).is_err(), "{url}");
        }
        // Two slashes would name another host.
        assert_eq!(cache("http://h/c").nar_url(&info("//other/x.nar")).unwrap().as_str(), "http://h/c/other/x.nar");
    }
}
