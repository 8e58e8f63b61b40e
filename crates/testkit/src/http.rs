//! A small blocking HTTP/1.1 client that does exactly what it is told, also what no proper client would do.
//!
//! Each request has its own connection. Answers are read whole, up to [`BODY_LIMIT`].

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::error::{Doing, Error, Result};

/// The longest body that [`Request::send`] takes, in bytes.
pub const BODY_LIMIT: u64 = 1 << 30;

/// How long a server may be silent: far above anything expected, so that a hanging server fails a test.
const SILENCE: Duration = Duration::from_secs(120);

/// A request to be sent.
#[derive(Debug, Clone)]
#[must_use]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    content_length: Option<u64>,
    chunked: bool,
}

/// A server's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers in order; names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, without its transfer coding.
    pub body: Vec<u8>,
    /// Whether the body ended where its framing said. An answer that breaks off is not an error of the client's.
    pub whole: bool,
}

impl Answer {
    /// Returns the first header of a name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns the body as text; what is not UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Request {
    /// Returns a request of any method for a target, which is sent as it is.
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            content_length: None,
            chunked: false,
        }
    }

    /// Returns a GET request.
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// Returns a PUT request with a body.
    pub fn put(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::new("PUT", target) }
    }

    /// Replaces the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Says that the body comes in chunks: only the head is of use then, see [`Request::start`].
    pub fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a token as `Authorization: Bearer`.
    pub fn token(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    /// Claims another body length than the body has.
    pub fn claim_length(mut self, bytes: u64) -> Self {
        self.content_length = Some(bytes);
        self
    }

    /// Sends the request on a new connection and reads the answer to its end.
    pub fn send(&self, server: SocketAddr) -> Result<Answer> {
        let mut stream = self.start(server)?;
        // A server may answer and close before it has read the body: its answer counts, not the broken pipe.
        let _ = stream.write_all(&self.body);
        read_answer(&stream, self.method == "HEAD")
    }

    /// Sends the head of the request and returns the connection, with nothing of the body sent.
    pub fn start(&self, server: SocketAddr) -> Result<TcpStream> {
        let stream = TcpStream::connect(server).doing(|| format!("connect to {server}"))?;
        let set = stream.set_read_timeout(Some(SILENCE)).and_then(|()| stream.set_write_timeout(Some(SILENCE)));
        set.and_then(|()| stream.set_nodelay(true)).doing(|| "set up a connection".to_owned())?;
        (&stream).write_all(self.head(server).as_bytes()).doing(|| format!("send {} {}", self.method, self.target))?;
        Ok(stream)
    }

    fn head(&self, server: SocketAddr) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let length = self.content_length.unwrap_or(self.body.len() as u64);
        if self.chunked {
            head += "Transfer-Encoding: chunked\r\n";
        } else if length > 0 || matches!(self.method.as_str(), "PUT" | "POST") {
            head += &format!("Content-Length: {length}\r\n");
        }
        head + "\r\n"
    }
}

/// Reads one answer from a connection that [`Request::start`] made; `head_only` for the answer to a HEAD.
pub fn read_answer(stream: &TcpStream, head_only: bool) -> Result<Answer> {
    let mut reader = BufReader::new(stream);
    loop {
        let (status, headers) = read_head(&mut reader)?;
        if status == 100 {
            continue;
        }
        let mut answer = Answer { status, headers, body: Vec::new(), whole: true };
        if !head_only && status != 204 && status != 304 {
            answer.whole = read_body(&mut reader, &answer.headers, &mut answer.body)?;
        }
        return Ok(answer);
    }
}

fn read_head(reader: &mut impl BufRead) -> Result<(u16, Vec<(String, String)>)> {
    let status_line = read_line(reader)?;
    let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let Some(status) = status.filter(|_| status_line.starts_with("HTTP/1.")) else {
        return Err(Error::Unexpected { what: "an HTTP status line", got: status_line });
    };
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            return Ok((status, headers));
        }
        let Some((name, value)) = line.split_once(':') else {
            return Err(Error::Unexpected { what: "an HTTP header", got: line });
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn read_line(reader: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    reader.take(64 << 10).read_line(&mut line).doing(|| "read an answer's head".to_owned())?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Reads a body as its headers frame it; returns whether it was whole.
fn read_body(reader: &mut impl BufRead, headers: &[(String, String)], body: &mut Vec<u8>) -> Result<bool> {
    let find = |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    if find("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return read_chunked(reader, body);
    }
    let limit = match find("content-length").map(str::parse::<u64>) {
        Some(Ok(length)) => length,
        Some(Err(_)) => {
            return Err(Error::Unexpected { what: "a Content-Length", got: format!("{headers:?}") });
        }
        None => BODY_LIMIT,
    };
    read_up_to(reader, limit, body)?;
    Ok(find("content-length").is_none() || body.len() as u64 == limit)
}

fn read_chunked(reader: &mut impl BufRead, body: &mut Vec<u8>) -> Result<bool> {
    loop {
        let line = read_line(reader)?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let Ok(size) = u64::from_str_radix(digits, 16) else {
            return Ok(false);
        };
        let before = body.len() as u64;
        read_up_to(reader, size, body)?;
        if body.len() as u64 != before + size {
            return Ok(false);
        }
        read_line(reader)?;
        if size == 0 {
            return Ok(true);
        }
    }
}

/// Reads until `limit` bytes, the end or a reset of the connection, whichever comes first.
fn read_up_to(reader: &mut impl BufRead, limit: u64, body: &mut Vec<u8>) -> Result<()> {
    match reader.take(limit.min(BODY_LIMIT)).read_to_end(body) {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(()),
        Err(source) => Err(Error::Io { doing: "read an answer's body".to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;

    fn answer(bytes: &'static [u8]) -> Result<Answer> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
        let address = listener.local_addr().expect("bound");
        thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("the test connects");
            let mut head = [0; 4096];
            let _ = client.read(&mut head);
            let _ = client.write_all(bytes);
        });
        Request::get("/x").send(address)
    }

    #[test]
    fn bodies_of_every_framing() {
        let sized = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-Y: z \r\n\r\nabcdef").expect("an answer");
        assert_eq!((sized.status, sized.text().as_str(), sized.whole), (200, "abc", true));
        assert_eq!(sized.header("x-y"), Some("z"));
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\n\r\n";
        let chunked = answer(chunked).expect("an answer");
        assert_eq!((chunked.text().as_str(), chunked.whole), ("abc", true));
        let closed = answer(b"HTTP/1.0 404 No\r\n\r\nabc").expect("an answer");
        assert_eq!((closed.status, closed.text().as_str(), closed.whole), (404, "abc", true));
    }

    #[test]
    fn bodies_that_break_off_are_not_whole() {
        assert!(!answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc").expect("an answer").whole);
        assert!(!answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n").expect("an answer").whole);
        assert!(!answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nab").expect("an answer").whole);
    }

    #[test]
    fn interim_answers_are_passed_over() {
        let both =
            answer(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("an answer");
        assert_eq!(both.status, 200);
    }

    #[test]
    fn what_is_not_http_is_an_error() {
        assert!(matches!(answer(b"hello\r\n"), Err(Error::Unexpected { .. })));
        assert!(matches!(answer(b""), Err(Error::Unexpected { .. })));
    }
}
