//! The agent's metrics over HTTP, for a Prometheus that can't read a Unix socket.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use firn_client::agent::{Answer, Handle, NixStore, Request};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, Kind};

/// How many scrapes are served at a time.
const MAX_CONNECTIONS: usize = 16;

/// How long a connection may live.
const PATIENCE: Duration = Duration::from_secs(60);

/// Listens; nothing is answered yet.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| Failure::doing(Kind::Failed, format!("listen on {address} for metrics"), error))
}

/// Answers `GET /metrics` until it is told to stop.
pub(crate) async fn serve(listener: TcpListener, handle: Handle<NixStore>, stop: &CancellationToken) {
    let turns = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let next = async { (turns.clone().acquire_owned().await, listener.accept().await) };
        let (turn, accepted) = tokio::select! {
            () = stop.cancelled() => return,
            next = next => next,
        };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors, mostly: somebody will close some.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (handle, stop) = (handle.clone(), stop.clone());
        tokio::spawn(async move {
            let _turn = turn;
            let answer = service_fn(|request| answer(request, handle.clone()));
            let mut server = hyper::server::conn::http1::Builder::new();
            let connection = server.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), answer);
            tokio::select! {
                () = stop.cancelled() => {}
                _ = tokio::time::timeout(PATIENCE, connection) => {}
            }
        });
    }
}

async fn answer(
    request: hyper::Request<Incoming>,
    handle: Handle<NixStore>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let plain = |status, text: String| {
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != "/metrics" {
        return Ok(plain(StatusCode::NOT_FOUND, "only /metrics is here\n".to_owned()));
    }
    if request.method() != Method::GET {
        return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned()));
    }
    Ok(match handle.answer(Request::Metrics).await {
        Answer::Metrics { text } => {
            let mut response = plain(StatusCode::OK, text);
            let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Answer::Failed { message } => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{message}\n")),
        _ => plain(StatusCode::SERVICE_UNAVAILABLE, "no metrics\n".to_owned()),
    })
}
