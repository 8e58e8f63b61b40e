use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::watch::{Activity, Limits, Overrun, Watched};
use super::*;

const HEADER: Duration = Duration::from_secs(30);
const BODY: Duration = Duration::from_secs(120);
const IDLE: Duration = Duration::from_secs(180);

/// A paused clock: time passes when everyone waits for it, so these tests take none.
fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(test);
}

fn connection() -> (DuplexStream, Watched<DuplexStream>, Arc<Activity>) {
    let (client, server) = duplex(64);
    let activity = Arc::new(Activity::new(Limits { header: HEADER, body: BODY, idle: IDLE }));
    (client, Watched::new(server, Arc::clone(&activity)), activity)
}

/// Waits for the limit, and says after how many seconds it was overrun.
async fn overrun(activity: &Activity) -> (Overrun, u64) {
    let began = tokio::time::Instant::now();
    let why = activity.overrun().await;
    (why, began.elapsed().as_secs())
}

fn about(found: u64, limit: Duration) -> bool {
    let limit = limit.as_secs();
    (limit..=limit + limit / 4 + 10).contains(&found)
}

async fn read(server: &mut Watched<DuplexStream>, bytes: usize) {
    let mut buffer = vec![0; bytes];
    server.read_exact(&mut buffer).await.expect("there");
}

#[test]
fn a_connection_that_says_nothing_ends_after_the_header_limit() {
    run(async {
        let (_client, _server, activity) = connection();
        let (why, after) = overrun(&activity).await;
        assert!(why == Overrun::Header && about(after, HEADER), "{why:?} after {after}");
    });
}

#[test]
fn between_requests_a_connection_may_idle_for_longer() {
    run(async {
        let (mut client, mut server, activity) = connection();
        client.write_all(b"GET / ").await.expect("sent");
        read(&mut server, 6).await;
        drop(activity.request());
        let (why, after) = overrun(&activity).await;
        assert!(why == Overrun::Idle && about(after, IDLE), "{why:?} after {after}");
    });
}

#[test]
fn a_later_request_has_the_header_limit_again() {
    run(async {
        let (mut client, mut server, activity) = connection();
        drop(activity.request());
        tokio::time::sleep(Duration::from_secs(100)).await;
        client.write_all(b"G").await.expect("sent");
        read(&mut server, 1).await;
        let (why, after) = overrun(&activity).await;
        assert!(why == Overrun::Header && about(after, HEADER), "{why:?} after {after}");
    });
}

#[test]
fn a_slow_drip_of_header_bytes_does_not_help() {
    run(async {
        let (mut client, mut server, activity) = connection();
        let drip = async {
            loop {
                client.write_all(b"x").await.expect("sent");
                read(&mut server, 1).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            () = drip => {}
            (why, after) = overrun(&activity) => assert!(why == Overrun::Header && about(after, HEADER), "{why:?} after {after}"),
        }
    });
}

#[test]
fn h2_has_no_header_limit_and_idles_whatever_it_pings() {
    run(async {
        let (mut client, mut server, activity) = connection();
        client.write_all(b"PRI * HTTP/2.0").await.expect("sent");
        read(&mut server, 14).await;
        let pings = async {
            loop {
                client.write_all(b"ping").await.expect("sent");
                read(&mut server, 4).await;
                tokio::time::sleep(Duration::from_secs(20)).await;
            }
        };
        tokio::select! {
            () = pings => {}
            (why, after) = overrun(&activity) => assert!(why == Overrun::Idle && about(after, IDLE), "{why:?} after {after}"),
        }
    });
}

#[test]
fn a_request_in_progress_has_no_limit_but_for_what_nobody_takes() {
    run(async {
        let (_client, mut server, activity) = connection();
        let request = activity.request();
        let quiet = tokio::time::timeout(Duration::from_secs(3600), activity.overrun()).await;
        assert!(quiet.is_err(), "computing may take its time");
        let stuck = async { server.write_all(&[0; 1000]).await };
        tokio::select! {
            result = stuck => panic!("{result:?}"),
            (why, after) = overrun(&activity) => assert!(why == Overrun::Body && about(after, BODY), "{why:?} after {after}"),
        }
        drop(request);
    });
}

#[test]
fn a_slow_reader_who_takes_something_is_not_cut_off() {
    run(async {
        let (mut client, mut server, activity) = connection();
        let _request = activity.request();
        let send = async {
            server.write_all(&[0; 6400]).await.expect("taken");
        };
        let take = async {
            let mut buffer = [0; 64];
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_secs(60)).await;
                client.read_exact(&mut buffer).await.expect("sent");
            }
        };
        tokio::select! {
            ((), ()) = async { tokio::join!(send, take) } => {}
            why = activity.overrun() => panic!("{why:?}"),
        }
    });
}

#[test]
fn an_address_in_use_is_named() {
    run(async {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("its address");
        match listen::bind(&[SocketAddr::from(([127, 0, 0, 1], 0)), address]).await.err() {
            Some(ServeError::Listen { address: named, source }) => {
                assert_eq!((named, source.kind()), (address, io::ErrorKind::AddrInUse));
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn the_base_url_is_the_public_one_or_the_first_address() {
    let mut config = Config::default().server;
    assert_eq!(base_url(&config, None), "http://127.0.0.1:8080");
    assert_eq!(base_url(&config, Some(SocketAddr::from(([10, 0, 0, 1], 99)))), "http://10.0.0.1:99");
    config.tls_cert = Some("c".into());
    assert_eq!(base_url(&config, Some("[::1]:99".parse().expect("an address"))), "https://[::1]:99");
    let any = base_url(&config, Some("[::]:99".parse().expect("an address")));
    assert!(any.starts_with("https://") && any.ends_with(":99") && !any.contains("::"), "{any}");
    config.public_url = Some("https://cache.example.org".to_owned());
    assert_eq!(base_url(&config, None), "https://cache.example.org");
}
