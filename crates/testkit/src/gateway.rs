//! What stands between builders and their server in organisations: a forward proxy, or a reverse proxy that refuses long bodies.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::door::Door;
use crate::error::Result;

/// The longest head of a request that is read.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// How long a client that was refused may go on sending before it is cut off.
const LINGER: Duration = Duration::from_secs(5);

/// Changes the head of an answer, a line for each field, and its body; told the first line of the request.
pub type Edit = fn(request: &str, head: &mut Vec<String>, body: &mut Vec<u8>);

/// What a gateway does.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Forwards to whatever host a request names, and tunnels with `CONNECT`.
    Forward,
    /// Forwards to one server, a connection for each request; answers longer bodies with 413.
    Reverse { server: SocketAddr, max_body_bytes: u64 },
    /// Forwards to one server, a connection for each request, and changes its answers.
    Editing { server: SocketAddr, edit: Edit },
}

/// A gateway on a free port of the loopback address, on threads of its own. It ends accepting when dropped.
#[derive(Debug)]
pub struct Gateway {
    door: Door,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    kind: Kind,
    requests: AtomicU64,
    tunnels: AtomicU64,
    refused: AtomicU64,
    longest_body: AtomicU64,
}

impl Gateway {
    /// Starts a forward proxy, for `http_proxy` and `https_proxy`.
    pub fn forward() -> Result<Self> {
        Self::start(Kind::Forward)
    }

    /// Starts a reverse proxy that answers requests with longer bodies by 413 before it has read them, as nginx does.
    pub fn reverse(server: SocketAddr, max_body_bytes: u64) -> Result<Self> {
        Self::start(Kind::Reverse { server, max_body_bytes })
    }

    /// Starts one that changes what a server answers, as another version of it would. Answers are held in memory whole.
    pub fn editing(server: SocketAddr, edit: Edit) -> Result<Self> {
        Self::start(Kind::Editing { server, edit })
    }

    fn start(kind: Kind) -> Result<Self> {
        let shared = Arc::new(Shared {
            kind,
            requests: AtomicU64::new(0),
            tunnels: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            longest_body: AtomicU64::new(0),
        });
        let serving = Arc::clone(&shared);
        let door = Door::open("the gateway", move |client| {
            let _ = client.set_nodelay(true);
            // Whoever is cut off sees that; there is nobody else to tell.
            let _ = match serving.kind {
                Kind::Forward => serving.forward(&client),
                Kind::Reverse { server, max_body_bytes } => serving.reverse(&client, server, max_body_bytes),
                Kind::Editing { server, edit } => serving.edit(&client, server, edit),
            };
        })?;
        Ok(Self { door, shared })
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.door.address()
    }

    /// Returns its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Returns how many connections began with a plain request.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Returns how many tunnels were made.
    pub fn tunnels(&self) -> u64 {
        self.shared.tunnels.load(Ordering::SeqCst)
    }

    /// Returns how many requests were refused for their length.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::SeqCst)
    }

    /// Returns the length of the longest body that was announced.
    pub fn longest_body(&self) -> u64 {
        self.shared.longest_body.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// Serves a connection to a forward proxy. What follows the first request goes to the same host.
    fn forward(&self, client: &TcpStream) -> io::Result<()> {
        let Some(head) = Head::read(client)? else { return Ok(()) };
        let mut words = head.text.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (host, is_tunnel) = match target.strip_prefix("http://") {
            Some(rest) => (rest.split('/').next().unwrap_or_default(), false),
            None => (target, method == "CONNECT"),
        };
        let Ok(mut server) = TcpStream::connect(host) else {
            return answer(client, "502 Bad Gateway");
        };
        server.set_nodelay(true)?;
        if is_tunnel {
            self.tunnels.fetch_add(1, Ordering::SeqCst);
            let mut to = client;
            to.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
        } else {
            self.requests.fetch_add(1, Ordering::SeqCst);
            server.write_all(head.text.as_bytes())?;
        }
        server.write_all(&head.behind)?;
        thread::scope(|scope| {
            scope.spawn(|| pump(client, &server));
            pump(&server, client);
        });
        Ok(())
    }

    /// Serves one request to a reverse proxy.
    fn reverse(&self, client: &TcpStream, server: SocketAddr, max_body_bytes: u64) -> io::Result<()> {
        let Some(head) = Head::read(client)? else { return Ok(()) };
        self.requests.fetch_add(1, Ordering::SeqCst);
        let body_bytes = head.content_length();
        self.longest_body.fetch_max(body_bytes, Ordering::SeqCst);
        if body_bytes > max_body_bytes {
            self.refused.fetch_add(1, Ordering::SeqCst);
            answer(client, "413 Request Entity Too Large")?;
            // Closed at once, the client might see a broken connection before it sees the answer.
            client.set_read_timeout(Some(LINGER))?;
            let left = body_bytes.saturating_sub(head.behind.len() as u64);
            io::copy(&mut client.take(left), &mut io::sink())?;
            return Ok(());
        }
        let to = head.pass_on(client, server)?;
        pump(&to, client);
        client.shutdown(Shutdown::Both)
    }

    /// Serves one request, and changes the answer.
    fn edit(&self, client: &TcpStream, server: SocketAddr, edit: Edit) -> io::Result<()> {
        let Some(head) = Head::read(client)? else { return Ok(()) };
        self.requests.fetch_add(1, Ordering::SeqCst);
        let mut from = head.pass_on(client, server)?;
        let Some(mut answer) = Head::read(&from)? else { return Ok(()) };
        from.read_to_end(&mut answer.behind)?;
        let mut lines: Vec<String> = answer.text.trim_end().lines().map(str::to_owned).collect();
        edit(head.text.lines().next().unwrap_or_default(), &mut lines, &mut answer.behind);
        let is_length = |line: &String| line.to_ascii_lowercase().starts_with("content-length:");
        if let Some(line) = lines.iter_mut().find(|line| is_length(line)) {
            *line = format!("content-length: {}", answer.behind.len());
        }
        let mut to = client;
        to.write_all(format!("{}\r\n\r\n", lines.join("\r\n")).as_bytes())?;
        to.write_all(&answer.behind)?;
        client.shutdown(Shutdown::Both)
    }
}

/// The head of a request, and what was read behind it.
struct Head {
    text: String,
    behind: Vec<u8>,
}

impl Head {
    /// Reads a head; `None` if the connection ends before.
    fn read(mut from: &TcpStream) -> io::Result<Option<Self>> {
        let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                let behind = bytes.split_off(at + 4);
                return Ok(Some(Self { text: String::from_utf8_lossy(&bytes).into_owned(), behind }));
            }
            match from.read(&mut buffer)? {
                0 => return Ok(None),
                _ if bytes.len() > MAX_HEAD_BYTES => return Ok(None),
                len => bytes.extend_from_slice(buffer.get(..len).unwrap_or_default()),
            }
        }
    }

    /// Sends a request on, with its body, over a connection of its own, and returns that.
    fn pass_on(&self, client: &TcpStream, server: SocketAddr) -> io::Result<TcpStream> {
        let mut to = TcpStream::connect(server)?;
        to.set_nodelay(true)?;
        let (first, rest) = self.text.split_once("\r\n").unwrap_or((&self.text, "\r\n"));
        to.write_all(format!("{first}\r\nconnection: close\r\n{rest}").as_bytes())?;
        to.write_all(&self.behind)?;
        io::copy(&mut client.take(self.content_length().saturating_sub(self.behind.len() as u64)), &mut to)?;
        Ok(to)
    }

    fn content_length(&self) -> u64 {
        let of = |line: &str| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        };
        self.text.lines().find_map(of).unwrap_or(0)
    }
}

fn answer(mut client: &TcpStream, status: &str) -> io::Result<()> {
    let page = format!("<html><body><h1>{status}</h1></body></html>");
    let len = page.len();
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-type: text/html\r\ncontent-length: {len}\r\nconnection: close\r\n");
    client.write_all(format!("{head}\r\n{page}").as_bytes())
}

fn pump(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;
    use crate::http::Request;

    /// A server that answers each connection's first request with its own head, and closes.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
        let address = listener.local_addr().expect("bound");
        thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                if let Ok(Some(head)) = Head::read(&client) {
                    let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}", head.text.len(), head.text);
                    let _ = client.write_all(text.as_bytes());
                    // Closed with a body unread, the connection would be reset and the answer lost.
                    let _ = client.shutdown(Shutdown::Write);
                    let _ = io::copy(&mut client, &mut io::sink());
                }
            }
        });
        address
    }

    #[test]
    fn a_reverse_proxy_refuses_what_is_longer() {
        let gateway = Gateway::reverse(echo(), 3).expect("a free port");
        let send = |body: &str| Request::put("/x", body).send(gateway.address()).expect("answered");
        assert!(send("abc").text().starts_with("PUT /x HTTP/1.1\r\nconnection: close\r\n"));
        assert_eq!(send("abcd").status, 413);
        assert_eq!((gateway.requests(), gateway.refused(), gateway.longest_body()), (2, 1, 4));
    }

    #[test]
    fn an_editor_changes_heads_and_bodies() {
        let edit: Edit = |request, head, body| {
            head.push(format!("x-request: {request}"));
            body.truncate(5);
        };
        let gateway = Gateway::editing(echo(), edit).expect("a free port");
        let answer = Request::put("/x", "abc").send(gateway.address()).expect("answered");
        assert_eq!((answer.text().as_str(), answer.header("x-request")), ("PUT /", Some("PUT /x HTTP/1.1")));
    }

    #[test]
    fn a_forward_proxy_goes_where_it_is_told() {
        let (gateway, server) = (Gateway::forward().expect("a free port"), echo());
        let answer = Request::get(&format!("http://{server}/x")).send(gateway.address()).expect("answered");
        assert!(answer.text().starts_with(&format!("GET http://{server}/x HTTP/1.1\r\n")), "{}", answer.text());
        let mut tunnel = TcpStream::connect(gateway.address()).expect("it listens");
        tunnel.write_all(format!("CONNECT {server} HTTP/1.1\r\n\r\n").as_bytes()).expect("connected");
        let mut made = [0; 39];
        tunnel.read_exact(&mut made).expect("answered");
        tunnel.write_all(b"GET /y HTTP/1.1\r\n\r\n").expect("connected");
        let mut said = String::new();
        tunnel.read_to_string(&mut said).expect("answered");
        assert!(said.ends_with("GET /y HTTP/1.1\r\n\r\n"), "{said}");
        assert_eq!((gateway.requests(), gateway.tunnels()), (1, 1));
    }
}
