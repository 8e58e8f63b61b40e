//! One line in the log for each request, written when its answer's last byte was handed on or its client went away.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use firn_engine::spans;
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Bytes;
use tokio::time::Instant;
use tracing::Span;

use super::watch::InProgress;
use crate::app::{App, LogFields};
use crate::http::template;
use crate::metrics::Ended;
use crate::traces;

/// The longest path that is logged, in bytes.
const MAX_PATH_BYTES: usize = 256;
/// How the text of a token begins, and how long the id behind it is.
const TOKEN_PREFIX: &[u8] = b"firn_";
const TOKEN_ID_LEN: usize = 16;

/// Returns a path as it may be shown: the first of it in printable ASCII, without secrets. A token does not belong there, and comes all
/// the same; whoever knows a session can end it.
fn shown(uri: &Uri) -> String {
    let path = uri.path();
    // Of most paths no pattern need be made.
    let pattern = path.contains("sessions").then(|| template::of(uri)).flatten();
    let pattern = pattern.filter(|pattern| pattern.ends_with(template::SESSION));
    let mut rest = pattern.as_deref().unwrap_or(path).as_bytes();
    let mut shown = String::with_capacity(rest.len().min(MAX_PATH_BYTES));
    while shown.len() < MAX_PATH_BYTES
        && let Some((&byte, behind)) = rest.split_first()
    {
        rest = if let Some((id, behind)) = token(rest) {
            shown.extend(id.escape_ascii().map(char::from));
            shown.push_str("***");
            behind
        } else {
            // hyper lets bytes above ASCII through, and terminals take some of them for commands.
            match byte {
                b' '..=b'~' => shown.push(char::from(byte)),
                _ => shown.extend(byte.escape_ascii().map(char::from)),
            }
            behind
        };
    }
    shown.truncate(MAX_PATH_BYTES);
    shown
}

/// Splits what begins with a token, or much of one: its public part, and what comes behind it.
fn token(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = text.strip_prefix(TOKEN_PREFIX)?;
    let len = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')).count();
    let is_one = len > TOKEN_ID_LEN && rest.iter().take(TOKEN_ID_LEN).all(u8::is_ascii_hexdigit);
    is_one.then(|| (&text[..TOKEN_PREFIX.len() + TOKEN_ID_LEN], &rest[len..]))
}

/// What is known of a request so far.
pub(super) struct Record {
    app: Arc<App>,
    method: http::Method,
    path: String,
    began: Instant,
    status: u16,
    sent: u64,
    complete: bool,
    fields: LogFields,
    span: Span,
    /// Whether making the answer's body failed.
    has_failed: bool,
    _in_progress: InProgress,
}

impl Record {
    pub(super) fn new<B>(app: Arc<App>, request: &Request<B>, in_progress: InProgress) -> Self {
        let path = shown(request.uri());
        let span = traces::request(request, &path, app.config.server.tls_cert.is_some());
        Self {
            app,
            method: request.method().clone(),
            path,
            began: Instant::now(),
            status: 0,
            sent: 0,
            complete: false,
            fields: LogFields::default(),
            span,
            has_failed: false,
            _in_progress: in_progress,
        }
    }

    /// Returns the span of the request.
    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// Tells its span how it ended.
    fn end_span(&self, cache: Option<&str>) {
        if self.span.is_disabled() {
            return;
        }
        // Leaving it is its end: its client may have gone long after the last piece.
        let span = self.span.enter();
        // None was made if the client went before.
        if self.status != 0 {
            self.span.record("http.response.status_code", i64::from(self.status));
        }
        self.span.record("http.request.body.size", spans::number(self.fields.received_bytes));
        self.span.record("http.response.body.size", spans::number(self.sent));
        self.span.record("firn.kind", self.fields.kind.as_str());
        self.span.record("firn.cache", cache);
        self.span.record("firn.complete", self.complete);
        if self.status >= 500 || self.has_failed {
            self.span.record("otel.status_code", "ERROR");
            let status = self.status.to_string();
            self.span.record("error.type", if self.has_failed { "broken_off" } else { status.as_str() });
        }
        drop(span);
    }

    /// Follows an answer to its end.
    pub(super) fn attach<B: Body>(mut self, mut response: Response<B>) -> Response<Logged<B>> {
        self.status = response.status().as_u16();
        self.fields = response.extensions_mut().remove().unwrap_or_default();
        let head = self.method == http::Method::HEAD;
        response.map(|body| {
            // hyper doesn't read a body that has no bytes or is not to be sent.
            self.complete = head || body.is_end_stream();
            Logged { body, record: self }
        })
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let elapsed = self.began.elapsed();
        let ended = Ended {
            status: self.status,
            is_complete: self.complete,
            is_head: self.method == http::Method::HEAD,
            sent_bytes: self.sent,
        };
        self.app.requests.count(&self.fields, &ended, elapsed, self.app.now());
        let ms = u64::try_from(elapsed.as_micros()).map_or(f64::MAX, |us| us as f64 / 1000.0);
        let cache = self.fields.cache.as_ref().map(|cache| cache.as_str());
        let token = self.fields.token.map(|token| token.to_string());
        self.end_span(cache);
        tracing::info!(
            method = %self.method,
            path = %self.path,
            status = self.status,
            sent_bytes = self.sent,
            ms,
            cache,
            token,
            complete = self.complete,
            "request"
        );
    }
}

/// A body that counts.
pub(super) struct Logged<B> {
    body: B,
    record: Record,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Logged<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        // Bodies begin work of their own while they are sent.
        let span = self.record.span();
        let result = span.in_scope(|| Pin::new(&mut self.body).poll_frame(cx));
        match &result {
            Poll::Ready(Some(Ok(frame))) => {
                self.record.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                self.record.complete = self.body.is_end_stream();
            }
            Poll::Ready(None) => self.record.complete = true,
            Poll::Ready(Some(Err(_))) => self.record.has_failed = true,
            Poll::Pending => {}
        }
        result
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_shown_as_printable_ascii() {
        let show = |path: &str| shown(&Uri::from_maybe_shared(path.to_owned().into_bytes()).unwrap());
        for (path, expected) in [
            ("/main/nix-cache-info?x=y", "/main/nix-cache-info"),
            ("/a\u{9b}31mX\u{202e}b\u{85}", "/a\\xc2\\x9b31mX\\xe2\\x80\\xaeb\\xc2\\x85"),
            ("/a%1bb'", "/a%1bb'"),
        ] {
            assert_eq!(show(path), expected);
        }
        for long in ["x".repeat(1000), "\u{9b}".repeat(1000), "x".repeat(254) + "\u{9b}"] {
            let shown = show(&format!("/{long}"));
            assert_eq!(shown.len(), MAX_PATH_BYTES);
            assert!(shown.bytes().all(|byte| byte.is_ascii_graphic()), "{shown}");
        }
    }

    #[test]
    fn a_path_is_shown_without_secrets() {
        let show = |path: &str| shown(&path.parse().unwrap());
        let token = crate::auth::Token::new(firn_index::TokenId(0xabc), [7; 32]).reveal().to_string();
        let secret = &token[22..];
        let public = "firn_0000000000000abc***";
        for (path, expected) in [
            (format!("/gena/x{token}"), format!("/gena/x{public}")),
            (format!("/{token}/x/{token}.narinfo"), format!("/{public}/x/{public}.narinfo")),
            (format!("/{}", &token[..40]), format!("/{public}")),
            ("/main/serve/firn_client-1.0/firn_".to_owned(), "/main/serve/firn_client-1.0/firn_".to_owned()),
            (
                format!("/api/v1/caches/main/sessions/{}", "0f".repeat(16)),
                "/api/v1/caches/{cache}/sessions/{session}".to_owned(),
            ),
        ] {
            assert_eq!(show(&path), expected);
        }
        // Cut in the middle of one.
        for before in 200..260 {
            let shown = show(&format!("/{}{token}", "x".repeat(before)));
            assert!(!shown.contains(&secret[..3]), "{shown}");
        }
    }
}
