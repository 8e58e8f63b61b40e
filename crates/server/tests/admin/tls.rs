//! TLS: both protocols, certificates read again, bad files refused.
//!
//! The fixtures are for these tests alone: self-signed by `openssl req -x509 -newkey ec -pkeyopt
//! ec_paramgen_curve:P-256 -nodes -days 36500 -subj '/CN=firn test N' -addext
//! 'subjectAltName=DNS:localhost,IP:127.0.0.1' -addext 'basicConstraints=critical,CA:FALSE'`.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use firn_server::cli::exit;
use firn_testkit::http::Request as Plain;
use http::{Request, Version};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::support::{Place, Server};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/admin/fixtures").join(name)
}

fn copy(place: &Place, number: u8) {
    for name in ["cert", "key"] {
        std::fs::copy(fixture(&format!("{name}-{number}.pem")), place.path().join(format!("{name}.pem")))
            .expect("copied");
    }
}

fn serve(place: &Place) -> Server {
    copy(place, 1);
    let config = place.write("firnd.toml", "[server]\ntls-cert = \"cert.pem\"\ntls-key = \"key.pem\"\n");
    place.serve(&["--config", config.to_str().expect("UTF-8")])
}

/// Connects, trusting one of the fixtures' certificates and nothing else.
async fn connect(server: &Server, number: u8, alpn: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    let cert = CertificateDer::from_pem_file(fixture(&format!("cert-{number}.pem"))).expect("a certificate");
    roots.add(cert).expect("added");
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(server.address()).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

fn request(uri: &str) -> Request<Empty<Bytes>> {
    Request::get(uri).header("host", "localhost").body(Empty::new()).expect("a request")
}

fn run<F: Future<Output = ()>>(test: F) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test);
}

#[test]
fn http_1_and_h2_are_spoken_over_tls() {
    let place = Place::new();
    let server = serve(&place);
    assert!(server.announcement.contains("https://"), "{}", server.announcement);
    assert!(place.json(&["cache", "create", "main"])["url"].as_str().is_some_and(|url| url.starts_with("https://")));
    run(async {
        let stream = connect(&server, 1, b"http/1.1").await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
        let task = tokio::spawn(connection);
        let answer = sender.send_request(request("/healthz")).await.expect("answers");
        assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_11));
        drop((sender, answer));
        let _ = task.await;

        let stream = connect(&server, 1, b"h2").await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("h2");
        let task = tokio::spawn(connection);
        let answer = sender.send_request(request("https://localhost/readyz")).await.expect("answers");
        assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_2));
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!(body, "ready\n");
        drop(sender);
        let _ = task.await;
    });
    assert!(Plain::get("/healthz").send(server.address()).is_err(), "no plain HTTP on a TLS socket");
    server.end();
}

#[test]
fn h2_is_spoken_without_tls_too() {
    let place = Place::new();
    let server = place.serve(&[]);
    run(async {
        let stream = TcpStream::connect(server.address()).await.expect("connects");
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("h2");
        let task = tokio::spawn(connection);
        // As many as Nix asks for at once, and more.
        let mut answers = Vec::new();
        for _ in 0..100 {
            sender.ready().await.expect("open");
            answers.push(tokio::spawn(sender.send_request(request("http://localhost/healthz"))));
        }
        for answer in answers {
            assert_eq!(answer.await.expect("no panic").expect("answers").status(), 200);
        }
        drop(sender);
        let _ = task.await;
    });
    server.end();
}

#[test]
fn sighup_reads_the_files_again_and_keeps_the_old_ones_if_they_are_bad() {
    let place = Place::new();
    let server = serve(&place);
    run(async {
        assert!(connect(&server, 1, b"h2").await.is_ok() && connect(&server, 2, b"h2").await.is_err());
        copy(&place, 2);
        server.signal(Signal::HUP);
        while connect(&server, 2, b"h2").await.is_err() {
            tokio::task::yield_now().await;
        }
        assert!(connect(&server, 1, b"h2").await.is_err(), "the old certificate is not offered any more");
        place.write("key.pem", "nonsense");
        server.signal(Signal::HUP);
        assert!(connect(&server, 2, b"h2").await.is_ok());
    });
    // The signals are read by one task, in order: the bad files are noticed before the end.
    let log = server.end();
    assert!(log.contains("the TLS files were read again"), "{log}");
}

#[test]
fn files_that_are_no_good_are_refused_before_listening() {
    let place = Place::new();
    let cert = |number| std::fs::read_to_string(fixture(&format!("cert-{number}.pem"))).expect("read");
    let key = |number| std::fs::read_to_string(fixture(&format!("key-{number}.pem"))).expect("read");
    let table = [
        (cert(1), key(2), "key.pem"),
        (key(1), key(1), "cert.pem"),
        (cert(1), cert(1), "key.pem"),
        (String::new(), key(1), "cert.pem"),
        (cert(1), "-----BEGIN PRIVATE KEY-----\nnonsense\n".to_owned(), "key.pem"),
    ];
    let config = place.write("firnd.toml", "[server]\ntls-cert = \"cert.pem\"\ntls-key = \"key.pem\"\n");
    for (number, (cert, key, named)) in table.into_iter().enumerate() {
        place.write("cert.pem", cert);
        place.write("key.pem", key);
        let said = place.fails(
            &["serve", "--config", config.to_str().expect("UTF-8"), "--listen", "127.0.0.1:0"],
            exit::CONFIG.into(),
        );
        assert!(said.contains(named), "row {number}: {said}");
    }
}
