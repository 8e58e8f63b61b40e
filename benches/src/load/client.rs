//! A blocking HTTP/1.1 client that costs little: one connection kept alive, bodies handed on piece by piece or dropped.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// How much is read at a time; also the longest head.
const BUFFER_BYTES: usize = 256 << 10;
/// How long a server may be silent: far above anything expected.
const SILENCE: Duration = Duration::from_secs(600);
/// How much of a refusal is shown, in bytes.
const MAX_REFUSAL_BYTES: usize = 1 << 10;

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// By its length in bytes.
    Length(u64),
    /// By a last chunk of no bytes.
    Chunked,
}

/// An answer whose head was read, and the first byte of its body, if it has any.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Started {
    /// The status code.
    pub(crate) status: u16,
    /// How the body ends.
    pub(crate) framing: Framing,
    /// The time from before the request was written until the first byte of the body was there.
    pub(crate) first_byte: Duration,
}

/// Keeps a transfer slow, until it is told to stop.
pub(crate) struct Pace<'a> {
    bytes_per_second: u64,
    began: Instant,
    passed: u64,
    stop: &'a AtomicBool,
}

impl<'a> Pace<'a> {
    /// Begins now.
    pub(crate) fn new(bytes_per_second: u64, stop: &'a AtomicBool) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), began: Instant::now(), passed: 0, stop }
    }

    /// Waits until it is time for what follows these bytes; fails when told to stop.
    pub(crate) fn pass(&mut self, bytes: usize) -> io::Result<()> {
        self.passed += bytes as u64;
        let due = self.began + Duration::from_secs_f64(self.passed as f64 / self.bytes_per_second as f64);
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::Error::other("told to stop"));
            }
            match due.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => thread::sleep(left.min(Duration::from_millis(100))),
                _ => return Ok(()),
            }
        }
    }
}

/// One connection, kept alive.
pub(crate) struct Connection {
    server: SocketAddr,
    stream: TcpStream,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// The server closes after this answer.
    last: bool,
    /// Lines that every GET carries.
    headers: String,
}

impl Connection {
    /// Connects to a server.
    pub(crate) fn open(server: SocketAddr) -> anyhow::Result<Self> {
        let stream = connect(server)?;
        Ok(Self {
            server,
            stream,
            buffer: vec![0; BUFFER_BYTES].into(),
            start: 0,
            end: 0,
            last: false,
            headers: String::new(),
        })
    }

    /// Sends a token with every GET from now on.
    pub(crate) fn set_token(&mut self, token: &str) {
        self.headers = format!("Authorization: Bearer {token}\r\n");
    }

    /// Drops what is under way and connects again.
    pub(crate) fn reopen(&mut self) -> anyhow::Result<()> {
        self.stream = connect(self.server)?;
        (self.start, self.end, self.last) = (0, 0, false);
        Ok(())
    }

    /// Sends a GET and reads up to the first byte of the body. The body has to be read by [`Self::body`], or dropped by
    /// [`Self::reopen`].
    pub(crate) fn get(&mut self, target: &str) -> anyhow::Result<Started> {
        if self.last {
            self.reopen()?;
        }
        let head = format!("GET {target} HTTP/1.1\r\nHost: {}\r\n{}\r\n", self.server, self.headers);
        let began = Instant::now();
        self.stream.write_all(head.as_bytes())?;
        let (status, framing) = self.head().with_context(|| format!("GET {target}"))?;
        if framing != Framing::Length(0) && self.start == self.end {
            self.fill()?;
        }
        Ok(Started { status, framing, first_byte: began.elapsed() })
    }

    /// Sends a GET that has to succeed, drops the body and returns its length.
    pub(crate) fn fetch(&mut self, target: &str) -> anyhow::Result<u64> {
        let started = self.get(target)?;
        let bytes = self.body(started.framing, &mut |_| Ok(()))?;
        ensure!(started.status == 200, "GET {target} is answered with {}", started.status);
        Ok(bytes)
    }

    /// Sends a PUT that has to succeed; `send` writes exactly `length` bytes.
    pub(crate) fn put(
        &mut self,
        target: &str,
        token: &str,
        length: u64,
        send: &mut dyn FnMut(&mut TcpStream) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        if self.last {
            self.reopen()?;
        }
        let head = format!(
            "PUT {target} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n",
            self.server
        );
        self.stream.write_all(head.as_bytes())?;
        // A server may refuse before it has read the body: what it says counts, not the broken pipe.
        let sent = send(&mut self.stream);
        if sent.as_ref().is_err_and(|error| !refused(error)) {
            self.reopen()?;
            return sent.with_context(|| format!("make the body of PUT {target}"));
        }
        let answer = self.head().and_then(|(status, framing)| {
            let mut text = Vec::new();
            self.body(framing, &mut |piece| {
                text.extend(piece.iter().take(MAX_REFUSAL_BYTES.saturating_sub(text.len())));
                Ok(())
            })?;
            Ok((status, text))
        });
        if let Ok((status, text)) = &answer
            && !(200..300).contains(status)
        {
            bail!("PUT {target} is answered with {status}: {}", String::from_utf8_lossy(text).trim());
        }
        sent.with_context(|| format!("send the body of PUT {target}"))?;
        answer.map(|_| ()).with_context(|| format!("PUT {target}"))
    }

    /// Reads a body to its end and returns its length without framing.
    pub(crate) fn body(
        &mut self,
        framing: Framing,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> anyhow::Result<u64> {
        let Framing::Length(length) = framing else { return self.chunks(sink) };
        self.pass(length, sink)?;
        Ok(length)
    }

    fn chunks(&mut self, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> anyhow::Result<u64> {
        let mut total = 0;
        loop {
            let line = self.line()?;
            let digits = line.split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(digits, 16).with_context(|| format!("the length of a chunk is {line:?}"))?;
            self.pass(size, sink)?;
            ensure!(self.line()?.is_empty(), "a chunk is longer than it says");
            if size == 0 {
                return Ok(total);
            }
            total += size;
        }
    }

    fn pass(&mut self, mut left: u64, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> anyhow::Result<()> {
        while left > 0 {
            if self.start == self.end {
                self.fill()?;
            }
            let take = left.min((self.end - self.start) as u64) as usize;
            sink(&self.buffer[self.start..self.start + take])?;
            self.start += take;
            left -= take as u64;
        }
        Ok(())
    }

    /// Reads the head of a final answer.
    fn head(&mut self) -> anyhow::Result<(u16, Framing)> {
        loop {
            let line = self.line()?;
            let status =
                line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
            let status: u16 = status.with_context(|| format!("the answer's first line is {line:?}"))?;
            let framing = self.headers(status)?;
            if status >= 200 {
                return Ok((status, framing));
            }
        }
    }

    fn headers(&mut self, status: u16) -> anyhow::Result<Framing> {
        let mut framing = None;
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').with_context(|| format!("a header is {line:?}"))?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                framing = Some(Framing::Length(value.parse()?));
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                framing = Some(Framing::Chunked);
            } else if name.eq_ignore_ascii_case("connection") {
                self.last = value.eq_ignore_ascii_case("close");
            }
        }
        match framing {
            _ if status < 200 || status == 204 || status == 304 => Ok(Framing::Length(0)),
            Some(framing) => Ok(framing),
            None => bail!("the answer has neither a length nor chunks"),
        }
    }

    fn line(&mut self) -> anyhow::Result<String> {
        loop {
            let held = &self.buffer[self.start..self.end];
            if let Some(at) = held.iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(held[..at].trim_ascii_end()).into_owned();
                self.start += at + 1;
                return Ok(line);
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> anyhow::Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        ensure!(self.end < self.buffer.len(), "a line of the answer's head is too long");
        let read = self.stream.read(&mut self.buffer[self.end..])?;
        ensure!(read > 0, "the server closed the connection in the middle of an answer");
        self.end += read;
        Ok(())
    }
}

/// Says whether a body could not be sent because the server wanted no more of it.
fn refused(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

fn connect(server: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(server).with_context(|| format!("connect to {server}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Shutdown, TcpListener};

    /// Answers the requests on one connection, in order.
    fn serve(answers: Vec<&'static str>) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
        let address = listener.local_addr().expect("bound");
        thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("the test connects");
            for answer in answers {
                let mut held = Vec::new();
                while !held.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if client.read(&mut byte).expect("a request") == 0 {
                        return;
                    }
                    held.push(byte[0]);
                }
                client.write_all(answer.as_bytes()).expect("an open connection");
            }
            // Closing with bytes unread would reset the connection under a client that still sends.
            let _ = client.shutdown(Shutdown::Write);
            let _ = io::copy(&mut client, &mut io::sink());
        });
        address
    }

    #[test]
    fn a_connection_is_kept_over_bodies_of_both_framings() {
        let answers = vec![
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        ];
        let mut connection = Connection::open(serve(answers)).expect("a server");
        assert_eq!(connection.fetch("/a").expect("a body"), 3);
        let mut text = Vec::new();
        let started = connection.get("/b").expect("a head");
        let read = connection.body(started.framing, &mut |piece| {
            text.extend_from_slice(piece);
            Ok(())
        });
        assert_eq!((started.status, started.framing, read.expect("a body")), (200, Framing::Chunked, 3));
        assert_eq!(text, b"abc");
        assert!(connection.fetch("/c").is_err_and(|error| error.to_string().contains("404")));
    }

    #[test]
    fn what_breaks_off_is_an_error() {
        for answer in ["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", "HTTP/1.1 200 OK\r\nContent-", "SSH-2.0\r\n"]
        {
            let mut connection = Connection::open(serve(vec![answer])).expect("a server");
            assert!(connection.fetch("/a").is_err(), "{answer:?}");
        }
    }

    #[test]
    fn a_refused_upload_says_why() {
        let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nno: 7\n";
        let mut connection = Connection::open(serve(vec![refusal])).expect("a server");
        let refused = connection.put("/a", "t", 0, &mut |_| Ok(())).expect_err("it is refused");
        assert!(refused.to_string().contains("403: no: 7"), "{refused}");
    }

    #[test]
    fn an_upload_that_stops_halfway_waits_for_no_answer() {
        let mut connection = Connection::open(serve(vec![])).expect("a server");
        let stopped = connection.put("/a", "t", 9, &mut |_| Err(io::Error::other("told to stop")));
        assert!(stopped.is_err_and(|error| format!("{error:#}").contains("told to stop")));
    }
}
