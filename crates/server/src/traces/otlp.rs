//! Sending spans by OTLP over HTTP, as protobuf.
//!
//! A thread of its own sends them in batches from a bounded queue: a collector that is slow or away loses spans and holds up
//! nothing. Queue and batches have the sizes and delays of the standard variables `OTEL_BSP_*`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use opentelemetry::KeyValue;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::resource::{
    EnvResourceDetector, ResourceDetector, SdkProvidedResourceDetector, TelemetryResourceDetector,
};
use opentelemetry_sdk::trace::{BatchSpanProcessor, Sampler, SdkTracerProvider, SpanData, SpanExporter, SpanProcessor};
use reqwest::redirect::Policy;
use tokio::runtime::Runtime;
use tracing::Span;
use tracing::level_filters::LevelFilter;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::{Layer as _, Registry};

use firn_engine::spans;

use super::{Counts, TracesError};
use crate::config::TracesConfig;
use crate::error_chain;
use crate::serve::BoxedLayer;
use crate::usage::counters::add;

/// What the server is called unless `OTEL_SERVICE_NAME` says otherwise.
const SERVICE_NAME: &str = "firnd";

/// How long one batch may be on its way to the collector.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the end of the server waits for the last spans to be sent.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// How much is read of a collector's answer, in bytes: what counts is its status.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// The longest `tracestate` that is taken from a request, in bytes: each span below it carries it on. W3C asks for this much.
const MAX_STATE_BYTES: usize = 512;

/// What sends spans; to be ended when the server has.
#[derive(Debug)]
pub struct Sending {
    provider: SdkTracerProvider,
    counts: Arc<Counts>,
}

impl Sending {
    /// Begins to send spans if the configuration asks for that; returns what is to be told of them. To be called outside of any
    /// async task.
    ///
    /// # Errors
    /// What the configuration or the environment says of the collector is no good.
    pub fn begin(config: &TracesConfig) -> Result<Option<(Self, BoxedLayer)>, TracesError> {
        if !config.enabled {
            return Ok(None);
        }
        let counts = Arc::<Counts>::default();
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_http();
        let mut exporter = exporter.with_protocol(Protocol::HttpBinary).with_http_client(Poster::new()?);
        if let Some(endpoint) = &config.endpoint {
            exporter = exporter.with_endpoint(endpoint);
        }
        let next = exporter.build().map_err(|error| TracesError(error.into()))?;
        let next = BatchSpanProcessor::builder(Told { next, counts: Arc::clone(&counts) }).build();
        let processor = Noted { next, counts: Arc::clone(&counts) };
        let mut provider = SdkTracerProvider::builder().with_resource(resource()).with_span_processor(processor);
        if let Some(ratio) = config.sample_ratio {
            provider = provider.with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))));
        }
        let provider = provider.build();
        // A span is what it says of itself, and not the line and thread that it was made in.
        let layer = tracing_opentelemetry::layer::<Registry>()
            .with_tracer(provider.tracer(SERVICE_NAME))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            .with_filter(Targets::new().with_target(spans::TARGET, LevelFilter::INFO));
        Ok(Some((Self { provider, counts }, Box::new(layer))))
    }

    /// Returns what became of the spans.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Sends what waits to be sent, for 5 s at most.
    pub fn end(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(LAST_WAIT) {
            tracing::warn!(%error, "the last spans were not sent to the collector in time: they are lost");
        }
    }
}

/// Makes the sender of a request's `traceparent` the parent of its span; one that is no good is as none.
pub(super) fn adopt(span: &Span, headers: &HeaderMap) {
    let parent = TraceContextPropagator::new().extract(&Carried(headers));
    if parent.span().span_context().is_valid() {
        // It fails for a span that is not to be sent.
        let _ = span.set_parent(parent);
    }
}

/// The headers of a request that say which trace it belongs to.
struct Carried<'a>(&'a HeaderMap);

impl Extractor for Carried<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let mut values = self.0.get_all(key).iter();
        // Of several, none can be told to be the right one.
        let value = values.next().filter(|_| values.next().is_none())?.to_str().ok()?;
        (value.len() <= MAX_STATE_BYTES).then_some(value)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Returns what all spans say of where they come from: `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` go first.
fn resource() -> Resource {
    let mut said: Vec<Box<dyn ResourceDetector>> =
        vec![Box::new(TelemetryResourceDetector), Box::new(EnvResourceDetector::new())];
    if std::env::var_os("OTEL_SERVICE_NAME").is_some_and(|name| !name.is_empty()) {
        said.push(Box::new(SdkProvidedResourceDetector));
    }
    Resource::builder_empty()
        .with_service_name(SERVICE_NAME)
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_detectors(&said)
        .build()
}

/// Counts the spans that are to be sent, before the queue may be full.
#[derive(Debug)]
struct Noted<P> {
    next: P,
    counts: Arc<Counts>,
}

impl<P: SpanProcessor> SpanProcessor for Noted<P> {
    fn on_start(&self, span: &mut opentelemetry_sdk::trace::Span, context: &opentelemetry::Context) {
        self.next.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        add(&self.counts.ended, 1);
        self.next.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.next.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.next.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.next.set_resource(resource);
    }
}

/// Counts what came of the spans that were sent.
#[derive(Debug)]
struct Told<E> {
    next: E,
    counts: Arc<Counts>,
}

impl<E: SpanExporter> SpanExporter for Told<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let outcome = self.next.export(batch).await;
        add(if outcome.is_ok() { &self.counts.sent } else { &self.counts.failed }, spans);
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.next.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.next.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.next.set_resource(resource);
    }
}

/// Posts batches, with the client that is used for other caches, too.
///
/// It has a runtime of its own: spans are sent by a thread that does nothing else, also when the server is busy or has ended.
#[derive(Debug)]
struct Poster {
    http: reqwest::Client,
    runtime: Runtime,
    is_failing: AtomicBool,
}

impl Poster {
    fn new() -> Result<Self, TracesError> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("firnd/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .timeout(PATIENCE)
            .build()
            .map_err(|error| TracesError(error.into()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| TracesError(error.into()))?;
        Ok(Self { http, runtime, is_failing: AtomicBool::new(false) })
    }

    async fn post(&self, request: Request<Bytes>) -> Result<Response<Bytes>, reqwest::Error> {
        let mut answer = self.http.execute(request.try_into()?).await?;
        let mut response = Response::builder().status(answer.status());
        if let Some(headers) = response.headers_mut() {
            headers.clone_from(answer.headers());
        }
        let mut body = BytesMut::new();
        while let Some(piece) = answer.chunk().await? {
            if body.len() + piece.len() > MAX_ANSWER_BYTES {
                break;
            }
            body.extend_from_slice(&piece);
        }
        Ok(response.body(body.freeze()).expect("status and headers are those of an answer"))
    }

    /// Says when the collector begins to fail, and when it takes spans again; once each.
    fn tell(&self, collector: &str, failure: Option<String>) {
        let was_failing = self.is_failing.swap(failure.is_some(), Ordering::Relaxed);
        match failure {
            Some(error) if !was_failing => {
                tracing::warn!(collector, error, "the collector does not take spans: they are lost until it does");
            }
            None if was_failing => tracing::info!(collector, "the collector takes spans again"),
            Some(_) | None => {}
        }
    }
}

#[async_trait]
impl HttpClient for Poster {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let collector = request.uri().authority().map(|authority| authority.to_string()).unwrap_or_default();
        // Blocks the thread that waits for nothing else.
        let outcome = self.runtime.block_on(self.post(request)).map_err(reqwest::Error::without_url);
        let failure = match &outcome {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers {}", answer.status())),
            Err(error) => Some(error_chain(error)),
        };
        self.tell(&collector, failure);
        Ok(outcome?)
    }
}
