//! Traces: a span for each request and for each step of the work below it, sent to an OpenTelemetry collector.
//!
//! What is here makes the spans, with names and fields of OpenTelemetry's semantic conventions; those of the steps come from
//! [`firn_engine::spans`]. Sending them needs the build feature `otel`, and a configuration that asks for it: nobody wants
//! spans without, so none is made.

#[cfg(feature = "otel")]
mod otlp;
#[cfg(not(feature = "otel"))]
#[path = "none.rs"]
mod otlp;

use std::borrow::Cow;
use std::cell::LazyCell;
use std::error::Error;
use std::sync::atomic::AtomicU64;

use firn_engine::spans;
use http::uri::Authority;
use http::{Method, Request, Version};
use tracing::Span;
use tracing::field::Empty;

pub use otlp::Sending;

use crate::http::{host, template};

/// The longest host name that a span keeps, in bytes: DNS has none that is longer.
const MAX_HOST_BYTES: usize = 255;

/// Why spans can't be sent; nothing was begun.
#[derive(Debug, thiserror::Error)]
#[error("prepare to send traces")]
pub struct TracesError(#[source] Box<dyn Error + Send + Sync>);

/// What became of the spans of this process. A span that ended and was neither sent nor failed waits, or was left out because
/// the queue was full.
#[derive(Debug, Default)]
pub struct Counts {
    /// Spans that came to their end and were to be sent.
    pub ended: AtomicU64,
    /// Spans that the collector took.
    pub sent: AtomicU64,
    /// Spans that the collector did not take, or that did not get there.
    pub failed: AtomicU64,
}

/// Begins the span of a request, whose path is given without query and cut to a bounded length. It ends when its answer has.
pub(crate) fn request<B>(request: &Request<B>, path: &str, is_tls: bool) -> Span {
    // Nothing of it is found out unless somebody wants the span.
    let asked = LazyCell::new(|| Asked::of(request, path));
    let span = tracing::info_span!(
        target: spans::TARGET,
        parent: None,
        "request",
        otel.kind = "server",
        otel.name = asked.name(),
        otel.status_code = Empty,
        http.request.method = asked.method.unwrap_or("_OTHER"),
        http.route = asked.route.as_deref(),
        url.path = asked.shown(),
        url.scheme = if is_tls { "https" } else { "http" },
        server.address = asked.host.as_ref().map(Authority::host),
        server.port = asked.host.as_ref().and_then(Authority::port_u16).map(i64::from),
        network.protocol.version = version(request.version()),
        http.response.status_code = Empty,
        http.request.body.size = Empty,
        http.response.body.size = Empty,
        error.type = Empty,
        firn.kind = Empty,
        firn.cache = Empty,
        firn.complete = Empty,
    );
    if !span.is_disabled() {
        otlp::adopt(&span, request.headers());
    }
    span
}

/// What a request says of itself.
struct Asked<'a> {
    method: Option<&'a str>,
    path: &'a str,
    route: Option<Cow<'static, str>>,
    host: Option<Authority>,
}

impl<'a> Asked<'a> {
    fn of<B>(request: &'a Request<B>, path: &'a str) -> Self {
        let host = host(request.uri(), request.headers()).filter(|host| host.len() <= MAX_HOST_BYTES);
        Self {
            method: known(request.method()),
            path,
            route: template::of(request.uri()),
            host: host.and_then(|host| host.parse().ok()),
        }
    }

    fn name(&self) -> String {
        let method = self.method.unwrap_or("HTTP");
        self.route.as_ref().map_or_else(|| method.to_owned(), |route| format!("{method} {route}"))
    }

    /// Returns the path. Whoever knows a session can end it: of that one, the pattern.
    fn shown(&self) -> &str {
        self.route.as_deref().filter(|route| route.ends_with(template::SESSION)).unwrap_or(self.path)
    }
}

/// Returns a method's name if it is one of the known ones: anybody can make up others.
fn known(method: &Method) -> Option<&str> {
    const KNOWN: [Method; 9] = [
        Method::GET,
        Method::HEAD,
        Method::PUT,
        Method::POST,
        Method::DELETE,
        Method::OPTIONS,
        Method::PATCH,
        Method::CONNECT,
        Method::TRACE,
    ];
    KNOWN.contains(method).then_some(method.as_str())
}

fn version(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        _ => None,
    }
}
