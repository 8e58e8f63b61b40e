//! One line in the log for each request, written when its answer's last byte was handed on or its client went away.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use firn_engine::spans;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Bytes;
use tokio::time::Instant;
use tracing::Span;

use super::watch::InProgress;
use crate::app::{App, LogFields};
use crate::metrics::Ended;
use crate::traces;

/// The longest path that is logged, in bytes.
const MAX_PATH_BYTES: usize = 256;

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
        let path = request.uri().path();
        // Paths are ASCII, by hyper's parser; else the end is left out at a character's border.
        let end = (0..=path.len().min(MAX_PATH_BYTES)).rev().find(|end| path.is_char_boundary(*end)).unwrap_or(0);
        let path = path.get(..end).unwrap_or_default();
        let span = traces::request(request, path, app.config.server.tls_cert.is_some());
        Self {
            app,
            method: request.method().clone(),
            path: path.to_owned(),
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
