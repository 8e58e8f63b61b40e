//! `/healthz` and `/readyz`, for supervisors and load balancers. They need no token and name no cache.

use std::sync::Arc;

use firn_storage::Storage;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use tokio_util::sync::CancellationToken;

use crate::app::App;

/// Answers a health check; `None` for any other request.
pub(super) async fn check<B>(
    app: &Arc<App>,
    storage: &Arc<dyn Storage>,
    stop: &CancellationToken,
    request: &Request<B>,
) -> Option<Response<Full<Bytes>>> {
    let path = request.uri().path();
    if path != "/healthz" && path != "/readyz" {
        return None;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Some(response);
    }
    if path == "/healthz" {
        return Some(plain(StatusCode::OK, "alive\n".to_owned()));
    }
    Some(match readiness(app, storage, stop).await {
        Ok(()) => plain(StatusCode::OK, "ready\n".to_owned()),
        Err(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    })
}

/// Says why the server can't take uploads, if it can't. The reason names no path and no key.
async fn readiness(app: &Arc<App>, storage: &Arc<dyn Storage>, stop: &CancellationToken) -> Result<(), &'static str> {
    if stop.is_cancelled() {
        return Err("the server ends");
    }
    let (work, storage) = (Arc::clone(app), Arc::clone(storage));
    let found = app.blocking(move || probe(&work, &*storage)).await;
    found.unwrap_or(Err("the check failed"))
}

fn probe(app: &App, storage: &dyn Storage) -> Result<(), &'static str> {
    let failed = |what: &'static str| {
        move |error: &(dyn std::error::Error + 'static)| {
            tracing::warn!(error, "not ready: {what}");
            what
        }
    };
    app.engine.meta().totals().map_err(|error| failed("the index can't be read")(&error))?;
    let free = storage.free_bytes().map_err(|error| failed("the storage can't be read")(&error))?;
    if free.is_some_and(|free| free < app.config.store.min_free.0) {
        return Err("the disk is nearly full");
    }
    app.engine.check_room().map_err(|error| failed("uploads can't be taken")(&error))
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
