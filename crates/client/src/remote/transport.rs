//! One request and its answer, whatever carries them.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

/// A request below a server's base URL.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: http::Method,
    /// Path and query, from its first slash.
    pub path: String,
    /// Headers beside those that every request has.
    pub headers: Vec<(&'static str, String)>,
    /// The body; without one no `Content-Length` is sent with `GET`.
    pub body: Bytes,
    /// Whether the token goes with it.
    pub with_token: bool,
}

/// The head of an answer, and its body to be read.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The header `Retry-After`, as it came.
    pub retry_after: Option<String>,
    /// The header `Location`, as it came.
    pub location: Option<String>,
    /// The body.
    pub body: Body,
}

/// The body of an answer.
#[derive(Debug)]
pub struct Body(Pieces);

#[derive(Debug)]
enum Pieces {
    Network(Box<super::http::Incoming>),
    Script(VecDeque<Result<Bytes, Broken>>),
}

impl Body {
    /// Returns a body that comes from the network.
    pub(crate) fn network(incoming: super::http::Incoming) -> Self {
        Self(Pieces::Network(Box::new(incoming)))
    }

    /// Returns a body of given pieces, for transports that are no network.
    pub fn script(pieces: impl IntoIterator<Item = Result<Bytes, Broken>>) -> Self {
        Self(Pieces::Script(pieces.into_iter().collect()))
    }

    /// Returns the next piece, or `None` at the end.
    ///
    /// # Errors
    /// [`Broken`] if the connection broke before the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        match &mut self.0 {
            Pieces::Network(incoming) => incoming.next().await,
            Pieces::Script(pieces) => pieces.pop_front().transpose(),
        }
    }

    /// Returns the whole body if it has at most `limit` bytes.
    ///
    /// # Errors
    /// [`Broken`], of the kind [`BrokenKind::TooLong`] for a longer one: nothing behind the limit is read.
    pub async fn whole(mut self, limit: usize) -> Result<Vec<u8>, Broken> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.next().await? {
            if piece.len() > limit.saturating_sub(bytes.len()) {
                return Err(Broken::new(BrokenKind::TooLong, format!("read an answer of more than {limit} bytes")));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// Returns the first `limit` bytes of the body, or what could be read of them.
    pub async fn start(mut self, limit: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Ok(Some(piece)) = self.next().await {
            let room = limit.saturating_sub(bytes.len());
            bytes.extend_from_slice(piece.get(..room).unwrap_or(&piece));
            if bytes.len() >= limit {
                break;
            }
        }
        bytes
    }
}

/// What stopped a request before it was answered whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokenKind {
    /// No connection came about.
    Unreachable,
    /// The connection broke.
    Cut,
    /// Nothing went in either direction for the idle limit.
    Idle,
    /// The answer is longer than any honest one.
    TooLong,
    /// It can't work this way: a certificate that isn't trusted, a request that can't be written.
    Impossible,
}

/// A request that wasn't answered whole.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Broken {
    /// What stopped it.
    pub kind: BrokenKind,
    /// What happened, with its causes.
    pub message: String,
}

impl Broken {
    /// Returns the error.
    pub fn new(kind: BrokenKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Says if the same request may succeed another time.
    pub(crate) fn may_pass(&self) -> bool {
        match self.kind {
            BrokenKind::Unreachable | BrokenKind::Cut | BrokenKind::Idle => true,
            BrokenKind::TooLong | BrokenKind::Impossible => false,
        }
    }
}

/// What is returned by [`Transport::send`].
pub type Sending<'a> = Pin<Box<dyn Future<Output = Result<Reply, Broken>> + Send + 'a>>;

/// Carries requests to one server.
pub trait Transport: Send + Sync {
    /// Sends a request once and returns the answer's head; whatever its status, this is no error.
    fn send(&self, request: Request) -> Sending<'_>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(pieces: &[&'static str]) -> Body {
        Body::script(pieces.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes()))))
    }

    #[tokio::test]
    async fn long_answers_are_not_taken() {
        assert_eq!(body(&["abc", "", "d"]).whole(4).await.unwrap(), b"abcd");
        assert_eq!(body(&["abc", "de"]).whole(4).await.unwrap_err().kind, BrokenKind::TooLong);
        assert_eq!(body(&["abc", "de"]).start(4).await, b"abcd");
        assert_eq!(body(&["abc"]).start(9).await, b"abc");
    }

    #[tokio::test]
    async fn cut_answers_are_not_taken() {
        let cut = || Body::script([Ok(Bytes::from_static(b"ab")), Err(Broken::new(BrokenKind::Cut, "cut"))]);
        assert_eq!(cut().whole(9).await.unwrap_err().kind, BrokenKind::Cut);
        assert_eq!(cut().start(9).await, b"ab");
    }
}
