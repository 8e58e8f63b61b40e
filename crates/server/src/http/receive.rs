//! Request bodies: from the async side, where they arrive, to the blocking side, where they are decoded and stored.
//!
//! Between the two is a queue of at most [`QUEUE_BYTES`], with a batch of [`BATCH_BYTES`] in the making on each side. A body that breaks off or stands still is an error on the
//! blocking side, never an end: what was begun there is abandoned.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use firn_nix::Sha256;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http_body_util::BodyExt as _;
use sha2::Digest as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::codec::Codec;
use super::error::{After, Problem};
use super::expects_continue;

/// The most bytes between the connection and the one who reads them.
const QUEUE_BYTES: u32 = 1 << 20;
/// The most batches there, however small.
const QUEUE_BATCHES: usize = 16;
/// How much is gathered before it is passed on; a quarter of the queue, so that both sides can work at once.
const BATCH_BYTES: usize = 256 << 10;
/// The same at a body's beginning: what is passed on to others begins with as much, and must not wait for more.
const FIRST_BATCH_BYTES: usize = 64 << 10;
/// How much of a refused upload is read and thrown away. A connection that is closed on a client that still sends takes
/// the answer with it, and Nix would try again.
const DRAIN_BYTES: u64 = 64 << 20;
/// For how long, at most, and without a byte: who sends nothing waits for the answer.
const DRAIN_TIME: Duration = Duration::from_secs(60);
const DRAIN_STALL: Duration = Duration::from_secs(5);
/// What has to come of a body in the time that it may stand still: less is taken for standing still, as it holds a turn.
const LEAST_BYTES: usize = 64 << 10;

/// An upload's body and what its headers say of it.
pub(super) struct Incoming<B> {
    body: B,
    state: State,
    /// What `Content-Length` says.
    pub(super) length: Option<u64>,
    /// What `Content-Encoding` says, outermost last.
    encodings: Vec<String>,
    expects_continue: bool,
    stall: Duration,
    /// What was waited in all since as many bytes had come as have to.
    waited: Duration,
    /// Bytes since then.
    fresh: usize,
    received: u64,
}

#[derive(PartialEq, Eq)]
enum State {
    Untouched,
    Begun,
    /// At its end, or of no use any more.
    Over,
}

/// Why a body did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    #[error("the client broke off")]
    BrokenOff,
    #[error("the client stood still")]
    Stalled,
    #[error("the body is too large")]
    TooLarge { limit: u64 },
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::BrokenOff => Self::BrokenOff,
            Failure::Stalled => Self::Stalled,
            Failure::TooLarge { limit } => Self::TooLarge { limit },
        }
    }
}

impl<B> Incoming<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    /// Takes a body, of which no byte is read before it is asked for.
    pub(super) fn new(body: B, headers: &HeaderMap, stall: Duration) -> Self {
        let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let encodings = headers.get_all(CONTENT_ENCODING).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        let encodings = encodings.flat_map(|list| list.split(',').map(str::to_owned).collect::<Vec<_>>()).collect();
        Self {
            body,
            state: State::Untouched,
            length,
            encodings,
            expects_continue: expects_continue(headers),
            stall,
            waited: Duration::ZERO,
            fresh: 0,
            received: 0,
        }
    }

    /// Returns how many bytes came so far.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Returns how final a refusal must be now: a client that was not told to wait has begun to send.
    pub(super) fn after(&self) -> After {
        match self.state {
            State::Untouched if self.expects_continue => After::Headers,
            State::Untouched | State::Begun | State::Over => After::Body,
        }
    }

    /// Refuses a body that says of itself that it is larger than `limit`.
    pub(super) fn check_length(&self, limit: u64) -> Result<(), Problem> {
        match self.length {
            Some(length) if length > limit => Err(Problem::TooLarge { limit }),
            _ => Ok(()),
        }
    }

    /// Returns how the body is encoded beside what its name says; more than one encoding at once is refused.
    pub(super) fn encoding(&self) -> Result<Codec, Problem> {
        match self.encodings.as_slice() {
            [] => Ok(Codec::Identity),
            [one] => Ok(Codec::from_content_encoding(one)?),
            more => Err(Problem::Unsupported(super::codec::Unsupported(more.join(",")))),
        }
    }

    /// Waits for the next bytes; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        if self.state == State::Over {
            return Ok(None);
        }
        self.state = State::Begun;
        loop {
            let asked_at = Instant::now();
            let frame = tokio::time::timeout(self.stall.saturating_sub(self.waited), self.body.frame()).await;
            // Only what we waited for the client, and not what he waited for us.
            self.waited += asked_at.elapsed();
            let failure = match frame {
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if data.is_empty() => continue,
                    Ok(data) => {
                        self.received = self.received.saturating_add(data.len() as u64);
                        self.fresh += data.len();
                        if self.fresh >= LEAST_BYTES {
                            (self.fresh, self.waited) = (0, Duration::ZERO);
                        }
                        return Ok(Some(data));
                    }
                    Err(_trailers) => continue,
                },
                Ok(None) => {
                    self.state = State::Over;
                    return Ok(None);
                }
                Ok(Some(Err(_))) => Failure::BrokenOff,
                Err(_elapsed) => Failure::Stalled,
            };
            self.state = State::Over;
            return Err(failure);
        }
    }

    /// Reads a body of at most `limit` bytes into memory.
    pub(super) async fn collect(&mut self, limit: u64) -> Result<Bytes, Problem> {
        self.check_length(limit)?;
        // Taken at once where the client says how much comes: growing would copy it several times.
        let capacity = self.length.unwrap_or(0).min(limit);
        let mut whole = BytesMut::with_capacity(usize::try_from(capacity).unwrap_or(0));
        while let Some(piece) = self.next().await? {
            if (whole.len() + piece.len()) as u64 > limit {
                return Err(Problem::TooLarge { limit });
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// Feeds the body to `work`, which runs on the pool for blocking work; `work` is always waited for.
    ///
    /// When this future is dropped, the reader gets [`Failure::BrokenOff`].
    pub(super) async fn feed<T, F>(&mut self, limit: u64, work: F) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: FnOnce(Reader) -> Result<T, Problem> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(QUEUE_BATCHES);
        let room = Arc::new(Semaphore::new(QUEUE_BYTES as usize));
        let reader = Reader::new(receiver, Arc::clone(&room), limit);
        let span = tracing::Span::current();
        let mut work = tokio::task::spawn_blocking(move || span.in_scope(|| work(reader)));
        // `work` may end before the body does, and then nobody makes room in the queue.
        let done = tokio::select! {
            () = self.pump(&sender, &room) => None,
            done = &mut work => Some(done),
        };
        drop(sender);
        let done = match done {
            Some(done) => done,
            None => work.await,
        };
        done.unwrap_or_else(|_| Err(Problem::internal(&crate::app::Panicked, After::Body)))
    }

    /// Passes the body on in batches: each wakes a thread, and connections give bytes in small pieces.
    async fn pump(&mut self, sender: &mpsc::Sender<Message>, room: &Semaphore) {
        let mut enough = FIRST_BATCH_BYTES;
        loop {
            let (mut batch, mut batch_bytes) = (Vec::new(), 0);
            let end = loop {
                match self.next().await {
                    Ok(Some(piece)) => {
                        batch_bytes += piece.len();
                        batch.push(piece);
                        if batch_bytes >= enough {
                            break None;
                        }
                    }
                    Ok(None) => break Some(Message::End),
                    Err(failure) => break Some(Message::Failure(failure)),
                }
            };
            enough = BATCH_BYTES;
            if !batch.is_empty() {
                let weight = weight(batch_bytes);
                let Ok(permits) = room.acquire_many(weight).await else { return };
                permits.forget();
                if sender.send(Message::Pieces { pieces: batch.into(), weight }).await.is_err() {
                    return;
                }
            }
            if let Some(end) = end {
                // Nobody listens any more: the reader was told by the closed queue.
                let _ = sender.send(end).await;
                return;
            }
        }
    }

    /// Reads a bounded rest of the body and throws it away; nothing of one whose client waits for a word first.
    pub(super) async fn drain(&mut self) {
        if self.state == State::Untouched && (self.expects_continue || self.length == Some(0)) {
            return;
        }
        (self.stall, self.waited) = (self.stall.min(DRAIN_STALL), Duration::ZERO);
        let _ = tokio::time::timeout(DRAIN_TIME, async {
            let mut drained = 0u64;
            while drained < DRAIN_BYTES
                && let Ok(Some(piece)) = self.next().await
            {
                drained += piece.len() as u64;
                self.waited = Duration::ZERO;
            }
        })
        .await;
    }
}

fn weight(batch_bytes: usize) -> u32 {
    u32::try_from(batch_bytes).unwrap_or(u32::MAX).min(QUEUE_BYTES)
}

enum Message {
    Pieces { pieces: VecDeque<Bytes>, weight: u32 },
    End,
    Failure(Failure),
}

/// A body on the blocking side.
pub(super) struct Reader {
    receiver: mpsc::Receiver<Message>,
    room: Arc<Semaphore>,
    current: Bytes,
    /// What came together with it.
    next: VecDeque<Bytes>,
    is_over: bool,
    limit: u64,
    received: u64,
    hasher: Option<sha2::Sha256>,
    failure: Arc<OnceLock<Failure>>,
}

impl Reader {
    fn new(receiver: mpsc::Receiver<Message>, room: Arc<Semaphore>, limit: u64) -> Self {
        let (current, failure) = (Bytes::new(), Arc::default());
        Self {
            receiver,
            room,
            current,
            next: VecDeque::new(),
            is_over: false,
            limit,
            received: 0,
            hasher: None,
            failure,
        }
    }

    /// Hashes what is read from now on, together with what was peeked at.
    pub(super) fn hash(&mut self) {
        self.hasher = Some(sha2::Sha256::new_with_prefix(&self.current));
    }

    /// Returns how many bytes have come so far.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Returns the SHA-256 of what came since [`Reader::hash`]; complete only at the end.
    pub(super) fn file_hash(&self) -> Option<Sha256> {
        self.hasher.clone().map(|hasher| Sha256(hasher.finalize().into()))
    }

    /// Returns at least the first `len` bytes of what is to come, fewer only at the end. To be called before all else.
    pub(super) fn peek(&mut self, len: usize) -> io::Result<&[u8]> {
        while self.current.len() < len {
            let Some(piece) = self.receive()? else { break };
            if self.current.is_empty() {
                self.current = piece;
            } else {
                self.current = [&self.current[..], &piece].concat().into();
            }
        }
        Ok(&self.current)
    }

    /// Returns a handle that tells afterwards if the body itself failed.
    pub(super) fn outcome(&self) -> Outcome {
        Outcome(Arc::clone(&self.failure))
    }

    fn fail(&mut self, failure: Failure) -> io::Error {
        self.is_over = true;
        let failure = self.failure.get_or_init(|| failure).clone();
        io::Error::other(failure)
    }

    fn receive(&mut self) -> io::Result<Option<Bytes>> {
        if let Some(failure) = self.failure.get().cloned() {
            return Err(self.fail(failure));
        }
        if self.is_over {
            return Ok(None);
        }
        if self.next.is_empty() {
            match self.receiver.blocking_recv() {
                Some(Message::Pieces { pieces, weight }) => {
                    self.room.add_permits(weight as usize);
                    self.next = pieces;
                }
                Some(Message::End) => self.is_over = true,
                Some(Message::Failure(failure)) => return Err(self.fail(failure)),
                None => return Err(self.fail(Failure::BrokenOff)),
            }
        }
        let Some(piece) = self.next.pop_front() else { return Ok(None) };
        self.received += piece.len() as u64;
        if self.received > self.limit {
            let limit = self.limit;
            return Err(self.fail(Failure::TooLarge { limit }));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&piece);
        }
        Ok(Some(piece))
    }
}

impl BufRead for Reader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.current.is_empty()
            && let Some(piece) = self.receive()?
        {
            self.current = piece;
        }
        Ok(&self.current)
    }

    fn consume(&mut self, amount: usize) {
        self.current.advance(amount);
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let len = available.len().min(buffer.len());
        buffer[..len].copy_from_slice(&available[..len]);
        self.consume(len);
        Ok(len)
    }
}

/// Whether a body failed, told apart from what a decoder makes of it.
pub(super) struct Outcome(Arc<OnceLock<Failure>>);

impl Outcome {
    /// Returns what an error means that came out of a decoder over the body.
    pub(super) fn explain(&self, error: &io::Error, codec: Codec) -> Problem {
        match self.0.get() {
            Some(failure) => failure.clone().into(),
            None => Problem::Undecodable { codec: codec.name(), detail: error.to_string() },
        }
    }
}

#[cfg(test)]
#[path = "receive/tests.rs"]
mod tests;
