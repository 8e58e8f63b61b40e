//! Traces, from the real server to a collector: what is sent, and that sending it harms nothing.

#[expect(dead_code, reason = "the tests of the push API use the rest")]
#[path = "../http/push/support.rs"]
mod client;
mod collector;
#[expect(dead_code, reason = "the tests of the commands use the rest")]
#[path = "../admin/support.rs"]
mod program;
#[expect(dead_code, reason = "the tests of the HTTP side use the rest")]
#[path = "../http/support.rs"]
mod support;

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use firn_server::http::codec::Codec;
use firn_testkit::http::{Answer, Request};
use http::StatusCode;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;

use crate::client::{Client, Parcel};
use crate::collector::{Collector, Taken, value};
use crate::program::{PATIENCE, Place, Server, firnd, text};
use crate::support::{Package, encode, file_name};

/// The trace and the span of somebody who asks the server for something.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// Returns the command that starts a server, without what whoever runs the tests tells OpenTelemetry.
fn serve(place: &Place, config: &Path) -> Command {
    let mut command = firnd();
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OTEL_")) {
        command.env_remove(name);
    }
    command.arg("serve").arg("--data").arg(place.data()).arg("--config").arg(config);
    command
}

/// A server with the public cache `main`, which sends its spans somewhere.
struct Traced {
    place: Place,
    server: Server,
    address: SocketAddr,
    token: String,
}

impl Traced {
    /// Starts it with these lines in `[traces]`, and these variables.
    fn start(traces: &str, variables: &[(&str, &str)]) -> Self {
        let place = Place::new();
        place.ok(&["cache", "create", "main", "--public"]);
        let token = place.ok(&["token", "create", "--grant", "main:pull,push"]).trim().to_owned();
        let config = place.write("firnd.toml", format!("[usage]\npublic-metrics = true\n[traces]\n{traces}\n"));
        let mut command = serve(&place, &config);
        command.args(["--listen", "127.0.0.1:0"]);
        let server = Server::start(command.envs(variables.iter().copied()));
        let address = server.address();
        Self { place, server, address, token }
    }

    fn send(&self, request: Request) -> Answer {
        request.token(&self.token).send(self.address).unwrap()
    }

    /// Uploads a package as Nix does, asks for it again, and compares.
    fn push_and_fetch(&self, package: &Package, headers: &[(&str, &str)]) {
        let with =
            |request: Request| headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        let file = encode(Codec::Zstd, &package.nar);
        let name = file_name(&file, Codec::Zstd);
        let answer = self.send(with(Request::put(&format!("/main/nar/{name}"), file)));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let narinfo = format!("/main/{}.narinfo", package.hash());
        let answer = self.send(with(Request::put(&narinfo, package.narinfo(&name, "zstd"))));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let nar = format!("/main/nar/{}.nar?key=of-the-query", package.nar_hash().to_nix32());
        let answer = self.send(with(Request::get(&nar)));
        assert_eq!((answer.status, answer.whole), (200, true));
        assert!(answer.body == package.nar);
    }

    /// Asks for `/metrics` until a counter of spans is above zero.
    #[track_caller]
    fn wait_for(&self, counter: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            let metrics = self.send(Request::get("/metrics")).text();
            let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("firn_{counter}_total ")));
            if line.unwrap_or_else(|| panic!("no {counter}: {metrics}")) != "0" {
                return;
            }
            assert!(Instant::now() < until, "{counter} stays at zero");
            std::thread::yield_now();
        }
    }
}

fn to(collector: &Collector) -> String {
    format!("enabled = true\nendpoint = \"{}\"", collector.url())
}

fn parent(trace: &str, flags: &str) -> String {
    format!("00-{trace}-{CALLER}-{flags}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Returns the only span of a name below another one.
#[track_caller]
fn only<'a>(collector: &'a Collector, parent: &Taken, name: &str) -> &'a Taken {
    let found: Vec<_> = collector.below(parent).into_iter().filter(|taken| taken.span.name == name).collect();
    let [one] = found[..] else { panic!("{} times '{name}' below '{}'", found.len(), parent.span.name) };
    let (span, whole) = (&one.span, &parent.span);
    assert!(whole.start_time_unix_nano <= span.start_time_unix_nano, "{name}");
    assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{name}");
    // A body looks ahead, and may be sent to its end before that is done.
    assert!(name == "restore" || span.end_time_unix_nano <= whole.end_time_unix_nano, "{name}");
    one
}

/// The delay between batches is short, so that tests are; what is sent does not depend on it.
const SOON: (&str, &str) = ("OTEL_BSP_SCHEDULE_DELAY", "20");

/// Nothing is sent by the clock within a test.
const LATE: (&str, &str) = ("OTEL_BSP_SCHEDULE_DELAY", "3600000");

#[test]
fn a_push_and_a_fetch_by_nix_are_told_with_their_steps() {
    let mut collector = Collector::start(StatusCode::OK);
    let traced = Traced::start(&to(&collector), &[SOON, ("OTEL_RESOURCE_ATTRIBUTES", "host.name=h1")]);
    let package = Package::new(1, 3_000_000);
    let (given, state) = (parent(TRACE, "01"), "vendor=value");
    traced.push_and_fetch(&package, &[("traceparent", &given), ("tracestate", state)]);

    let upload = collector.wait("PUT /{cache}/nar/{file}", 1).remove(0);
    let narinfo = collector.wait("PUT /{cache}/{hash}.narinfo", 1).remove(0);
    let fetch = collector.wait("GET /{cache}/nar/{file}", 1).remove(0);
    for (taken, method, route) in [
        (&upload, "PUT", "/{cache}/nar/{file}"),
        (&narinfo, "PUT", "/{cache}/{hash}.narinfo"),
        (&fetch, "GET", "/{cache}/nar/{file}"),
    ] {
        assert_eq!(hex(&taken.span.trace_id), TRACE);
        assert_eq!(hex(&taken.span.parent_span_id), CALLER);
        assert_eq!((taken.span.kind(), taken.span.trace_state.as_str()), (SpanKind::Server, state));
        let port = traced.address.port().to_string();
        for (key, expected) in [
            ("http.request.method", method),
            ("http.route", route),
            ("http.response.status_code", "200"),
            ("url.scheme", "http"),
            ("server.address", "127.0.0.1"),
            ("server.port", port.as_str()),
            ("network.protocol.version", "1.1"),
            ("firn.cache", "main"),
            ("firn.complete", "true"),
        ] {
            assert_eq!(taken.get(key).as_deref(), Some(expected), "{key} of {route}");
        }
        assert_eq!(taken.span.status.as_ref().map_or(0, |status| status.code), 0);
        for (key, expected) in [("service.name", "firnd"), ("host.name", "h1"), ("telemetry.sdk.language", "rust")] {
            assert_eq!(value(&taken.sender, key).as_deref(), Some(expected), "{key}");
        }
        assert_eq!(value(&taken.sender, "service.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
    }
    let length = package.nar.len().to_string();
    assert_eq!(fetch.get("http.response.body.size"), Some(length.clone()));
    assert_ne!(upload.get("http.request.body.size").as_deref(), Some("0"));

    let ingest = only(&collector, &upload, "ingest");
    assert_eq!((ingest.get("firn.bytes"), ingest.get("firn.known")), (Some(length.clone()), Some("false".to_owned())));
    only(&collector, ingest, "verify");
    only(&collector, &upload, "commit");
    only(&collector, &narinfo, "commit");
    assert_eq!(only(&collector, &fetch, "restore").get("firn.bytes"), Some(length));

    traced.wait_for("trace_sent_spans");
    traced.server.end();
    for taken in collector.all() {
        let told = format!("{taken:?}");
        assert!(!told.contains("of-the-query") && !told.contains(&traced.token), "{told}");
    }
}

#[test]
fn a_push_by_the_api_and_a_collection_are_told_with_their_steps() {
    let mut collector = Collector::start(StatusCode::OK);
    // By the variable, and under another name.
    let variables = [SOON, ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.base()), ("OTEL_SERVICE_NAME", "cache-1")];
    let traced = Traced::start("enabled = true", &variables);
    let client = Client::at(traced.address, "main", Some(&traced.token)).started();
    let parcel = Parcel::new(2, 300_000);
    assert_eq!(client.push(&[&parcel]), ["created"]);
    let session = client.session.clone().unwrap();
    let answer = client.send("DELETE", &format!("/sessions/{session}"), Vec::new());
    assert_eq!(answer.status, 200, "{}", answer.text());
    traced.place.ok(&["gc"]);

    let frames = collector.wait("POST /api/v1/caches/{cache}/frames", 1).remove(0);
    let commit = collector.wait("POST /api/v1/caches/{cache}/commits", 1).remove(0);
    let end = collector.wait("DELETE /api/v1/caches/{cache}/sessions/{session}", 1).remove(0);
    let collect = collector.wait("collect", 1).remove(0);
    assert!(frames.span.parent_span_id.is_empty() && collect.span.parent_span_id.is_empty());
    only(&collector, &frames, "frames");
    assert_eq!(only(&collector, &commit, "assemble").get("firn.bytes"), Some(parcel.package.nar.len().to_string()));
    assert_eq!(only(&collector, &commit, "commit").get("firn.changes").as_deref(), Some("1"));
    for pass in ["sweep", "condemn", "doom", "delete"] {
        only(&collector, &collect, pass);
    }
    assert_eq!(value(&frames.sender, "service.name").as_deref(), Some("cache-1"));
    assert!(!format!("{end:?}").contains(&session), "whoever knows a session can end it");
    traced.server.end();
}

#[test]
fn the_sampler_decides_unless_the_caller_has() {
    let mut collector = Collector::start(StatusCode::OK);
    let traced = Traced::start(&format!("{}\nsample-ratio = 0.0", to(&collector)), &[LATE]);
    let other = "1".repeat(32);
    let get = |path: &str| Request::get(path);
    for request in [
        get("/main/nix-cache-info"),
        get("/healthz").header("traceparent", &parent(&other, "00")),
        get("/main/nix-cache-info").header("traceparent", &parent(TRACE, "01")),
        get("/readyz").header("traceparent", "00-not-a-parent-01"),
    ] {
        assert_eq!(traced.send(request).status, 200);
    }
    // What is left of the queue is sent now, so that what has not come is not coming.
    traced.server.end();
    let names: Vec<_> =
        collector.requests().iter().map(|taken| (taken.span.name.clone(), hex(&taken.span.trace_id))).collect();
    assert_eq!(names, [("GET /{cache}/nix-cache-info".to_owned(), TRACE.to_owned())]);
}

#[test]
fn a_shutdown_sends_what_is_left() {
    let mut collector = Collector::start(StatusCode::OK);
    let traced = Traced::start(&to(&collector), &[LATE]);
    let missing = traced.send(Request::get("/main/nothing-there"));
    assert_eq!(missing.status, 404);
    assert!(collector.all().is_empty());
    let log = traced.server.end();
    let [request] = &collector.requests()[..] else { panic!("not one request: {:?}", collector.all()) };
    assert_eq!((request.span.name.as_str(), request.get("http.route")), ("GET", None));
    assert_eq!(request.get("http.response.status_code").as_deref(), Some("404"));
    // Only the server's own failures are errors of its spans.
    assert_ne!(request.span.status.as_ref().map_or(0, |status| status.code), SpanStatus::Error as i32);
    assert!(!log.contains("the collector"), "{log}");
}

#[test]
fn nothing_is_sent_unless_it_is_wanted() {
    let mut collector = Collector::start(StatusCode::OK);
    let base = collector.base();
    let traced = Traced::start("enabled = false", &[SOON, ("OTEL_EXPORTER_OTLP_ENDPOINT", &base)]);
    traced.push_and_fetch(&Package::new(3, 10_000), &[]);
    assert!(!traced.send(Request::get("/metrics")).text().contains("firn_trace"));
    traced.server.end();
    assert!(collector.all().is_empty());
}

#[test]
fn a_collector_that_is_away_or_silent_harms_nothing() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // It is connected to, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for (number, address) in [(4, gone), (5, silent.local_addr().unwrap())] {
        let endpoint = format!("enabled = true\nendpoint = \"http://{address}/v1/traces\"");
        // Far more spans than the queue takes.
        let small = [SOON, ("OTEL_BSP_MAX_QUEUE_SIZE", "4"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")];
        let traced = Traced::start(&endpoint, &small);
        traced.push_and_fetch(&Package::new(number, 100_000), &[]);
        for _ in 0..50 {
            assert_eq!(traced.send(Request::get("/main/nix-cache-info")).status, 200);
        }
        let ending = Instant::now();
        let log = traced.server.end();
        // 5 s for the last spans, and what the rest of the end takes.
        assert!(ending.elapsed() < Duration::from_secs(30), "{:?}", ending.elapsed());
        let lost = log.matches("the last spans were not sent").count();
        let told = log.matches("the collector does not take spans").count();
        assert!(told <= 1 && lost <= 1 && told + lost > 0, "{log}");
        assert!(!log.contains(" ERROR "), "{log}");
    }
}

#[test]
fn a_collector_that_refuses_is_told_of_once() {
    let mut collector = Collector::start(StatusCode::BAD_REQUEST);
    let traced = Traced::start(&to(&collector), &[SOON]);
    traced.send(Request::get("/main/nix-cache-info"));
    traced.wait_for("trace_failed_spans");
    traced.send(Request::get("/main/nix-cache-info"));
    collector.wait("GET /{cache}/nix-cache-info", 2);
    let log = traced.server.end();
    assert_eq!(log.matches("the collector does not take spans").count(), 1, "{log}");
    assert!(log.contains("400 Bad Request"), "{log}");
}

#[test]
fn a_bad_endpoint_is_refused_before_anything_else() {
    let place = Place::new();
    let config = place.write("firnd.toml", "[traces]\nenabled = true\n");
    let output = serve(&place, &config).env("OTEL_EXPORTER_OTLP_ENDPOINT", "not a URL").output().expect("runs");
    assert_eq!(output.status.code(), Some(firn_server::cli::exit::CONFIG.into()), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{}", text(&output.stderr));
    assert!(!place.data().join("store").exists());
}
