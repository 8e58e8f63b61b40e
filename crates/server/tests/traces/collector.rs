//! A collector of traces, as the real ones are spoken to: OTLP over HTTP, protobuf.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use tokio::net::TcpListener;

use crate::program::PATIENCE;

/// A span that came, and what its sender said of itself.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    pub(crate) sender: Vec<KeyValue>,
    pub(crate) span: Span,
}

impl Taken {
    /// Returns one of the span's attributes as text.
    pub(crate) fn get(&self, key: &str) -> Option<String> {
        value(&self.span.attributes, key)
    }
}

/// Returns an attribute as text.
pub(crate) fn value(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    Some(match &found.value {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => text.clone(),
        Some(AnyValue { value: Some(Value::IntValue(number)) }) => number.to_string(),
        Some(AnyValue { value: Some(Value::BoolValue(is_true)) }) => is_true.to_string(),
        other => panic!("{key} is {other:?}"),
    })
}

/// The collector, on a free port.
pub(crate) struct Collector {
    address: SocketAddr,
    came: Receiver<Taken>,
    taken: Vec<Taken>,
    _runtime: tokio::runtime::Runtime,
}

impl Collector {
    /// Starts one that answers every batch with this status.
    pub(crate) fn start(status: StatusCode) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (sender, came) = channel();
        let address = runtime.block_on(listen(status, sender));
        Self { address, came, taken: Vec::new(), _runtime: runtime }
    }

    /// Returns where traces are taken.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1/traces", self.address)
    }

    /// Returns where the collector is, for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub(crate) fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until there are so many spans with the name, and returns them.
    #[track_caller]
    pub(crate) fn wait(&mut self, name: &str, count: usize) -> Vec<Taken> {
        let until = Instant::now() + PATIENCE;
        loop {
            let found: Vec<Taken> = self.taken.iter().filter(|taken| taken.span.name == name).cloned().collect();
            if found.len() >= count {
                return found;
            }
            let left = until.saturating_duration_since(Instant::now());
            let Ok(taken) = self.came.recv_timeout(left) else {
                let names: Vec<&str> = self.taken.iter().map(|taken| taken.span.name.as_str()).collect();
                panic!("{count} spans '{name}' did not come; what came: {names:?}");
            };
            self.taken.push(taken);
        }
    }

    /// Returns everything that has come by now.
    pub(crate) fn all(&mut self) -> &[Taken] {
        self.taken.extend(self.came.try_iter());
        &self.taken
    }

    /// Returns the spans of requests that have come by now.
    pub(crate) fn requests(&mut self) -> Vec<Taken> {
        self.all().iter().filter(|taken| taken.span.kind() == SpanKind::Server).cloned().collect()
    }

    /// Returns the spans below one of those that have come.
    pub(crate) fn below(&self, parent: &Taken) -> Vec<&Taken> {
        let is_child = |taken: &&Taken| {
            taken.span.trace_id == parent.span.trace_id && taken.span.parent_span_id == parent.span.span_id
        };
        self.taken.iter().filter(is_child).collect()
    }
}

async fn listen(status: StatusCode, sender: Sender<Taken>) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            let sender = sender.clone();
            let service = service_fn(move |request| take(request, status, sender.clone()));
            tokio::spawn(async move {
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

async fn take(
    request: Request<Incoming>,
    status: StatusCode,
    sender: Sender<Taken>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/traces"));
    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let batch = ExportTraceServiceRequest::decode(body).expect("protobuf");
    for from in batch.resource_spans {
        let of = from.resource.unwrap_or_default().attributes;
        for span in from.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            // The test may have seen enough.
            let _ = sender.send(Taken { sender: of.clone(), span });
        }
    }
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    Ok(response)
}
