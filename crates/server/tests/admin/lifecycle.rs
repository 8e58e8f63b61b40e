//! Start and end of a server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;

use firn_server::cli::exit;
use firn_testkit::http::{Request, read_answer};
use rustix::process::Signal;

use crate::support::{PATIENCE, Place, Server, firnd, text};

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

/// Reads until the server hangs up.
fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn a_second_server_is_refused_with_who_holds_the_data() {
    let place = Place::new();
    let server = place.serve(&[]);
    let said = place.fails(&["serve", "--listen", "127.0.0.1:0"], exit::HELD.into());
    assert!(said.contains(&format!("process {} (firnd serve)", server.id())), "{said}");
    assert!(said.contains("hint:") && said.contains("--data"), "{said}");
    server.end();
    place.serve(&[]).end();
}

#[test]
fn where_it_listens_is_printed_for_scripts() {
    let place = Place::new();
    let server = place.serve(&[]);
    assert!(server.announcement.starts_with("firnd: listening on http://127.0.0.1:"), "{}", server.announcement);
    assert_ne!(server.address().port(), 0);
    server.end();
    let server = place.serve(&["--json"]);
    let line: serde_json::Value = serde_json::from_str(&server.announcement).expect("JSON");
    assert!(line["listening"].as_str().is_some_and(|url| url.starts_with("http://127.0.0.1:")));
    server.end();
}

#[test]
fn an_orderly_end_adds_nothing_to_the_lines_for_scripts() {
    let place = Place::new();
    let mut command = firnd();
    command.args(["serve", "--json", "--listen", "127.0.0.1:0", "--data"]).arg(place.data());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    out.read_line(&mut line).expect("reads");
    assert!(line.starts_with("{\"listening\":"), "{line}");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).expect("is alive");
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("reads");
    assert!(child.wait().expect("ends").success());
    assert_eq!(rest, "");
}

#[test]
fn an_address_in_use_is_said_before_anything_else_happens() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let said = place.fails(&["serve", "--listen", &address], exit::FAILED.into());
    assert!(said.contains(&address) && said.contains("hint:"), "{said}");
    // And it has let go of the data.
    place.serve(&[]).end();
}

#[test]
fn health_checks_answer_without_a_token() {
    let place = Place::new();
    let server = place.serve(&[]);
    for (path, said) in [("/healthz", "alive\n"), ("/readyz", "ready\n")] {
        let answer = Request::get(path).send(server.address()).expect("answers");
        assert_eq!((answer.status, answer.text().as_str()), (200, said));
        let head = Request::new("HEAD", path).send(server.address()).expect("answers");
        assert_eq!((head.status, head.body.len()), (200, 0));
        let put = Request::put(path, "x").send(server.address()).expect("answers");
        assert_eq!((put.status, put.header("allow")), (405, Some("GET, HEAD")));
    }
    server.end();
}

#[test]
fn not_ready_says_why() {
    let place = Place::new();
    let config = place.write("firnd.toml", "[store]\nmin-free = \"1024 TiB\"\n");
    let server = place.serve(&["--config", config.to_str().expect("UTF-8")]);
    let answer = Request::get("/readyz").send(server.address()).expect("answers");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.text(), "not ready: the disk is nearly full\n");
    assert_eq!(Request::get("/healthz").send(server.address()).expect("answers").status, 200);
    server.end();
}

#[test]
fn an_end_waits_for_a_request_in_progress_and_takes_no_new_one() {
    let place = Place::new();
    place.ok(&["cache", "create", "main"]);
    let token = place.ok(&["token", "create", "--grant", "main:push"]);
    let mut server = place.serve(&[]);
    let address = server.address();
    let mut upload = connect(address);
    let head = format!("PUT /main/log/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n", token.trim_end());
    let name = "0".repeat(32);
    let head = head.replace("/log/x", &format!("/log/{name}-x.drv"));
    write!(upload, "{head}Content-Length: 10\r\nExpect: 100-continue\r\n\r\n").expect("sent");
    // The server asks for the body: the request is in progress.
    let mut begun = [0; 12];
    upload.read_exact(&mut begun).expect("answers");
    assert_eq!(&begun, b"HTTP/1.1 100");
    server.signal(Signal::TERM);
    // When nobody listens any more, the end has begun.
    while TcpStream::connect(address).is_ok() {
        std::thread::yield_now();
    }
    upload.write_all(b"0123456789").expect("sent");
    let answer = rest(&mut upload);
    assert!(answer.contains("HTTP/1.1 200") || answer.contains("HTTP/1.1 201"), "{answer}");
    let (status, log) = server.wait();
    assert!(status.success(), "{log}");
}

#[test]
fn what_does_not_end_within_the_grace_is_broken_off() {
    let place = Place::new();
    let config = place.write("firnd.toml", "[server]\nshutdown-grace = \"50 ms\"\n");
    let mut server = place.serve(&["--config", config.to_str().expect("UTF-8")]);
    place.ok(&["cache", "create", "main"]);
    let token = place.ok(&["token", "create", "--grant", "main:push"]);
    let mut upload = connect(server.address());
    let target = format!("/main/nar/{}.nar", "0".repeat(52));
    write!(upload, "PUT {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n", token.trim_end())
        .expect("sent");
    let mut begun = [0; 12];
    upload.read_exact(&mut begun).expect("answers");
    server.signal(Signal::INT);
    let (status, log) = server.wait();
    assert!(status.success() && log.contains("breaking them off"), "{status} {log}");
    assert!(!rest(&mut upload).contains("HTTP/1.1 200"));
}

#[test]
fn a_second_signal_ends_at_once_and_nothing_is_lost() {
    let place = Place::new();
    let config = place.write("firnd.toml", "[server]\nshutdown-grace = \"1 h\"\n");
    let mut server = place.serve(&["--config", config.to_str().expect("UTF-8")]);
    let address = server.address();
    place.ok(&["cache", "create", "kept"]);
    let token = place.ok(&["token", "create", "--grant", "kept:push"]);
    let mut upload = connect(address);
    let target = format!("/kept/nar/{}.nar", "0".repeat(52));
    write!(upload, "PUT {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n", token.trim_end())
        .expect("sent");
    let mut begun = [0; 12];
    upload.read_exact(&mut begun).expect("answers");
    server.signal(Signal::TERM);
    while TcpStream::connect(address).is_ok() {
        std::thread::yield_now();
    }
    // One that comes within a second of the first says nothing new.
    while !server.has_ended() {
        server.signal(Signal::TERM);
        std::thread::yield_now();
    }
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(exit::FORCED.into()), "{log}");
    assert_eq!(place.json(&["cache", "list"])[0]["name"], "kept");
    assert_eq!(place.json(&["token", "list"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn two_signals_at_once_end_it_in_order() {
    let place = Place::new();
    let mut server = place.serve(&[]);
    server.signal(Signal::TERM);
    server.signal(Signal::INT);
    let (status, log) = server.wait();
    assert!(status.success(), "{status} {log}");
}

#[test]
fn a_request_names_one_host() {
    let place = Place::new();
    let server = place.serve(&[]);
    let answer = |head: &str| {
        let mut stream = connect(server.address());
        write!(stream, "GET /healthz {head}Connection: close\r\n\r\n").expect("sent");
        rest(&mut stream)
    };
    for good in ["HTTP/1.1\r\nHost: x\r\n", "HTTP/1.1\r\nHost:\r\n", "HTTP/1.0\r\n", "HTTP/1.0\r\nHost: x\r\n"] {
        assert!(answer(good).contains(" 200 "), "{good}: {}", answer(good));
    }
    for bad in ["HTTP/1.1\r\n", "HTTP/1.1\r\nHost: x\r\nHost: x\r\n", "HTTP/1.0\r\nHost: x\r\nHost: y\r\n"] {
        let said = answer(bad);
        assert!(said.contains(" 400 ") && said.contains("bad-request: "), "{bad}: {said}");
    }
    server.end();
}

#[test]
fn a_killed_server_leaves_nothing_in_the_way() {
    let place = Place::new();
    let mut server = place.serve(&[]);
    place.ok(&["cache", "create", "kept"]);
    server.signal(Signal::KILL);
    server.wait();
    assert!(place.data().join("firnd.sock").exists(), "it had no time to remove it");
    assert_eq!(place.json(&["cache", "list"])[0]["name"], "kept");
    place.serve(&[]).end();
}

#[test]
fn garbage_on_the_administration_socket_is_answered_or_hung_up_on() {
    use std::os::unix::net::UnixStream;
    let place = Place::new();
    let server = place.serve(&[]);
    let send = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(place.data().join("firnd.sock")).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        // The server may have had enough before all is written.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        text(&answer)
    };
    for garbage in [
        &b"\n"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"{\"request\":\"nothing\"}\n",
        b"{\"request\":\"status\"}",
        &[0xff; 100],
    ] {
        let answer = send(garbage);
        assert!(answer.contains("failure") || answer.contains("Failure"), "{answer}");
    }
    send(&vec![b'['; 3 << 20]);
    drop(UnixStream::connect(place.data().join("firnd.sock")).expect("connects"));
    assert_eq!(place.json(&["status"])["running"], true);
    server.end();
}

#[test]
fn requests_are_logged_without_secrets() {
    let place = Place::new();
    place.ok(&["cache", "create", "main"]);
    let token = place.ok(&["token", "create", "--grant", "main:pull"]);
    let token = token.trim_end();
    let config = place.write("firnd.toml", "[log]\nformat = \"json\"\n");
    let server = place.serve(&["--config", config.to_str().expect("UTF-8")]);
    let answer = Request::get("/main/nix-cache-info?key=hidden").token(token).send(server.address()).expect("answers");
    assert_eq!(answer.status, 200);
    let log = server.end();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let line = lines.iter().find(|line| line["path"] == "/main/nix-cache-info").expect("logged");
    assert_eq!((&line["method"], &line["status"], &line["cache"]), (&"GET".into(), &200.into(), &"main".into()));
    assert_eq!((&line["sent_bytes"], &line["complete"]), (&answer.body.len().into(), &true.into()));
    assert_eq!(line["token"], token[5..21]);
    assert!(line["ms"].is_f64());
    assert!(!log.contains(&token[22..]) && !log.contains("hidden"), "{log}");
    assert!(!log.contains("\"WARN\"") && !log.contains("\"ERROR\""), "an ordinary life has nothing to warn of: {log}");
}

#[test]
fn connections_beyond_the_limit_wait_for_their_turn() {
    let place = Place::new();
    let config = place.write("firnd.toml", "[server]\nmax-connections = 1\n");
    let server = place.serve(&["--config", config.to_str().expect("UTF-8")]);
    let mut first = connect(server.address());
    write!(first, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    assert_eq!(read_answer(&first, false).expect("answers").status, 200);
    let mut second = connect(server.address());
    write!(second, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
    second.set_nonblocking(true).expect("set");
    assert!(second.read(&mut [0; 1]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    second.set_nonblocking(false).expect("set");
    drop(first);
    assert!(rest(&mut second).contains("200 OK"));
    server.end();
}

#[test]
fn several_addresses_are_all_served() {
    let place = Place::new();
    let mut command = firnd();
    command.args(["serve", "--listen", "127.0.0.1:0", "--listen", "127.0.0.2:0", "--data"]).arg(place.data());
    let server = Server::start(&mut command);
    assert_eq!(Request::get("/healthz").send(server.address()).expect("answers").status, 200);
    let log = server.end();
    assert!(log.contains("127.0.0.2:"), "{log}");
}

#[test]
fn a_low_limit_of_open_files_is_raised_or_said() {
    let place = Place::new();
    let shell = |limits: &str| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &format!("{limits} && exec \"$0\" serve --listen 127.0.0.1:0 --data \"$1\"")]);
        command.arg(env!("CARGO_BIN_EXE_firnd")).arg(place.data());
        Server::start(&mut command)
    };
    let log = shell("ulimit -S -n 256").end();
    assert!(!log.contains("open files"), "the hard limit leaves room: {log}");
    let log = shell("ulimit -n 2000").end();
    assert!(log.contains("open_files=2000") && log.contains("fits=464"), "{log}");
}
