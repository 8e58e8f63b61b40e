use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use http::HeaderValue;
use http::header::EXPECT;
use http_body::Frame;

use super::*;

/// A body of given pieces that counts what was taken, and then ends or stands still.
struct Pieces {
    pieces: VecDeque<Bytes>,
    taken: Arc<AtomicUsize>,
    ends: bool,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.pieces.pop_front() {
            Some(piece) => {
                self.taken.fetch_add(piece.len(), Ordering::SeqCst);
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            None if self.ends => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

fn body(pieces: &[&'static [u8]], ends: bool) -> Pieces {
    let pieces = pieces.iter().copied().map(Bytes::from_static).collect();
    Pieces { pieces, taken: Arc::default(), ends }
}

fn incoming(body: Pieces, headers: &HeaderMap) -> Incoming<Pieces> {
    Incoming::new(body, headers, Duration::from_millis(20))
}

fn read_all(mut reader: Reader) -> Result<Vec<u8>, Problem> {
    let (mut bytes, outcome) = (Vec::new(), reader.outcome());
    reader.read_to_end(&mut bytes).map_err(|error| outcome.explain(&error, Codec::Identity))?;
    Ok(bytes)
}

#[tokio::test]
async fn tells_a_body_that_stands_still_from_its_end() {
    let mut still = incoming(body(&[b"ab"], false), &HeaderMap::new());
    assert_eq!(still.feed(100, read_all).await, Err(Problem::Stalled));
    let mut still = incoming(body(&[b"ab"], false), &HeaderMap::new());
    assert_eq!(still.collect(100).await, Err(Problem::Stalled));
    let mut whole = incoming(body(&[b"ab", b"", b"c"], true), &HeaderMap::new());
    assert_eq!(whole.feed(100, read_all).await, Ok(b"abc".to_vec()));
}

#[tokio::test]
async fn refuses_what_is_too_large() {
    for limit in [0, 2] {
        let mut large = incoming(body(&[b"ab", b"c"], true), &HeaderMap::new());
        assert_eq!(large.feed(limit, read_all).await, Err(Problem::TooLarge { limit }));
        let mut large = incoming(body(&[b"ab", b"c"], true), &HeaderMap::new());
        assert_eq!(large.collect(limit).await, Err(Problem::TooLarge { limit }));
    }
    let headers = HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from_static("5"))]);
    let claims = incoming(body(&[], true), &headers);
    assert_eq!(claims.check_length(4), Err(Problem::TooLarge { limit: 4 }));
    assert_eq!(claims.check_length(5), Ok(()));
}

#[tokio::test]
async fn breaks_off_for_the_reader_when_it_is_dropped() {
    // A whole batch: less would wait for more.
    static PIECE: [u8; super::BATCH_BYTES] = [0; super::BATCH_BYTES];
    let (told, tell) = std::sync::mpsc::channel();
    let mut waiting = Incoming::new(body(&[PIECE.as_slice()], false), &HeaderMap::new(), Duration::from_secs(1000));
    let feed = waiting.feed(1 << 30, move |mut reader| {
        let outcome = reader.outcome();
        assert_eq!(reader.peek(1).unwrap(), PIECE);
        let error = reader.peek(PIECE.len() + 1).unwrap_err();
        told.send(outcome.explain(&error, Codec::Xz)).unwrap();
        Ok(())
    });
    // Long enough to begin: the reader has its first batch or will find it in the queue.
    let _ = tokio::time::timeout(Duration::from_millis(20), feed).await.unwrap_err();
    let problem = tokio::task::spawn_blocking(move || tell.recv()).await.unwrap().unwrap();
    assert_eq!(problem, Problem::BrokenOff);
}

#[tokio::test]
async fn queues_no_more_than_it_says() {
    static PIECE: [u8; 100_000] = [0; 100_000];
    let pieces = body(&[PIECE.as_slice(); 100], true);
    let taken = Arc::clone(&pieces.taken);
    let mut incoming = Incoming::new(pieces, &HeaderMap::new(), Duration::from_secs(1000));
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let feed = incoming.feed(1 << 30, move |reader| {
        wait.recv().expect("the test says when");
        read_all(reader)
    });
    let mut feed = std::pin::pin!(feed);
    // Nobody reads: the queue fills, and nothing more is taken from the connection.
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut feed).await.is_err());
    let queued = taken.load(Ordering::SeqCst);
    assert!(queued <= QUEUE_BYTES as usize + BATCH_BYTES + PIECE.len(), "{queued}");
    go.send(()).unwrap();
    assert_eq!(feed.await.unwrap().len(), 10_000_000);
}

#[tokio::test]
async fn survives_a_panic_of_its_reader() {
    let mut incoming = incoming(body(&[b"ab".as_slice(); 3], true), &HeaderMap::new());
    let result: Result<(), Problem> = incoming.feed(100, |_| panic!("on purpose")).await;
    assert_eq!(result, Err(Problem::Internal(After::Body)));
}

#[tokio::test]
async fn peeks_without_losing_bytes_or_their_hash() {
    let mut pieces = incoming(body(&[b"a", b"bc", b"def"], true), &HeaderMap::new());
    let work = |mut reader: Reader| {
        assert_eq!(reader.peek(2).unwrap(), b"abc");
        reader.hash();
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        assert_eq!((reader.received(), reader.file_hash()), (6, Some(Sha256::of(b"abcdef"))));
        Ok(bytes)
    };
    assert_eq!(pieces.feed(100, work).await.unwrap(), b"abcdef");
    let mut short = incoming(body(&[b"a"], true), &HeaderMap::new());
    assert_eq!(short.feed(100, |mut reader| Ok(reader.peek(5).unwrap().to_vec())).await.unwrap(), b"a");
}

#[tokio::test]
async fn touches_no_body_of_who_waits_for_a_word() {
    let headers = HeaderMap::from_iter([(EXPECT, HeaderValue::from_static("100-Continue"))]);
    let pieces = body(&[b"ab"], true);
    let taken = Arc::clone(&pieces.taken);
    let mut waiting = incoming(pieces, &headers);
    assert_eq!(waiting.after(), After::Headers);
    waiting.drain().await;
    assert_eq!(taken.load(Ordering::SeqCst), 0);
    waiting.collect(10).await.unwrap();
    assert_eq!(waiting.after(), After::Body);
    // One that was not told to wait is read to its end, so that it hears the answer.
    let pieces = body(&[b"ab", b"cd"], true);
    let taken = Arc::clone(&pieces.taken);
    let mut hasty = incoming(pieces, &HeaderMap::new());
    assert_eq!(hasty.after(), After::Body);
    hasty.drain().await;
    assert_eq!(taken.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn knows_one_encoding_at_a_time() {
    let encoding = |values: &[&'static str]| {
        let headers = values.iter().map(|value| (CONTENT_ENCODING, HeaderValue::from_static(value))).collect();
        incoming(body(&[], true), &headers).encoding()
    };
    assert_eq!(encoding(&[]), Ok(Codec::Identity));
    assert_eq!(encoding(&["Br"]), Ok(Codec::Brotli));
    for refused in [&["gzip, zstd"][..], &["gzip", "zstd"], &["deflate"]] {
        assert!(matches!(encoding(refused), Err(Problem::Unsupported(_))), "{refused:?}");
    }
}

/// A body of 1 KiB each `pause`, without end.
struct Drips {
    pause: Duration,
    next: Pin<Box<tokio::time::Sleep>>,
    bytes: usize,
}

impl Drips {
    fn each(pause: Duration, bytes: usize) -> Self {
        Self { pause, next: Box::pin(tokio::time::sleep(pause)), bytes }
    }
}

impl http_body::Body for Drips {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::ready!(self.next.as_mut().poll(cx));
        let at = tokio::time::Instant::now() + self.pause;
        self.next.as_mut().reset(at);
        Poll::Ready(Some(Ok(Frame::data(vec![0; self.bytes].into()))))
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_too_slowly_stands_still() {
    let stall = Duration::from_secs(100);
    let slow = |bytes| Incoming::new(Drips::each(Duration::from_secs(10), bytes), &HeaderMap::new(), stall);
    let begun = Instant::now();
    assert_eq!(
        slow(6 << 10).collect(1 << 20).await,
        Err(Problem::Stalled),
        "60 KiB in the time that it may stand still"
    );
    assert_eq!(begun.elapsed(), stall);
    assert_eq!(slow(7 << 10).collect(1 << 20).await, Err(Problem::TooLarge { limit: 1 << 20 }));

    // What the client waits for us is not his.
    let mut fast = Incoming::new(Drips::each(Duration::from_secs(1), 1), &HeaderMap::new(), stall);
    for _ in 0..10 {
        assert_eq!(fast.next().await.unwrap().unwrap().len(), 1);
        tokio::time::advance(stall).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_body_is_not_read_for_long() {
    let patience = Duration::from_secs(1000);
    let begun = Instant::now();
    Incoming::new(body(&[b"ab"], false), &HeaderMap::new(), patience).drain().await;
    assert_eq!(begun.elapsed(), DRAIN_STALL);
    let begun = Instant::now();
    Incoming::new(Drips::each(Duration::from_secs(1), 1), &HeaderMap::new(), patience).drain().await;
    assert_eq!(begun.elapsed(), DRAIN_TIME);
}
