//! Runs of missing chunks become frames, and frames requests.
//!
//! Runs of several paths may share a frame: a rebuild changes a little in many paths, and a frame of 30 KiB for each would
//! compress worse. A run is never divided.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_api::{HINT_BYTES, Limits, encode_hints};
use firn_chunk::Hint;
use firn_pack::{FrameEncoder, FrameKind};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{JoinSet, spawn_blocking};

use super::advance::Advance;
use super::batch::{Batches, Window};
use super::budget::Reserved;
use super::cut::Run;
use super::event::{Counters, add};
use super::pulse::{Present, Pulse, Stage};
use crate::error::Refusal;
use crate::remote::Remote;
use crate::{Error, Result};

/// How many requests with frames are under way at a time.
const IN_FLIGHT: usize = 4;

/// The bytes of frames that a request aims at: proxies in between often take no more than 10 MiB, and what is under way is
/// in memory.
const REQUEST_BYTES: usize = 4 << 20;

/// How long a run or a frame waits for others.
const LONGEST: Duration = Duration::from_millis(500);

/// The uncompressed bytes of a frame: with its head, it fits into a request of 1 MiB even where it could not be compressed. That is
/// what nginx takes unless it is told otherwise.
const FRAME_BYTES: usize = (1 << 20) - (16 << 10);

/// Returns the uncompressed bytes that a frame aims at, for a server with such limits.
pub(crate) fn run_bytes(limits: &Limits) -> usize {
    limits.frame_raw_bytes.min(FRAME_BYTES)
}

/// A run on its way. The answer is its part of the frame's bytes.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// The chunks.
    pub(crate) run: Run,
    /// Their memory, which runs of one path may share.
    pub(crate) hold: Arc<Reserved>,
    /// That the run's path is here.
    pub(crate) present: Present,
    /// How far that path is.
    pub(crate) advance: Arc<Advance>,
    /// Where to tell that the server has them.
    pub(crate) done: oneshot::Sender<Result<u64>>,
}

/// A frame on its way.
struct Ready {
    /// Empty once it is part of a body.
    frame: Bytes,
    /// Its length.
    bytes: usize,
    /// What leads to bases of its chunks; nothing if the server does not want to know.
    hints: Vec<Hint>,
    runs: Vec<Told>,
    _present: Present,
}

/// Who is told what became of a run.
struct Told {
    done: oneshot::Sender<Result<u64>>,
    advance: Arc<Advance>,
    /// Its bytes, uncompressed.
    raw: u64,
}

impl Told {
    fn failed(self, error: &Error) {
        let _ = self.done.send(Err(error.clone()));
    }
}

impl Ready {
    /// Returns how many bytes of a request it takes.
    fn weight(&self) -> usize {
        self.bytes + self.hints.len() * HINT_BYTES
    }

    /// Tells that the server has it.
    fn sent(self) {
        let all: u64 = self.runs.iter().map(|told| told.raw).sum();
        for Told { done, advance, raw } in self.runs {
            advance.settle(raw);
            let _ = done.send(Ok(raw * self.bytes as u64 / all.max(1)));
        }
    }
}

/// What sending needs.
pub(crate) struct Sending {
    /// The server.
    pub(crate) remote: Arc<Remote>,
    /// Who is where.
    pub(crate) pulse: Pulse,
    /// The sums.
    pub(crate) counters: Arc<Counters>,
    /// The zstd level.
    pub(crate) level: i32,
    /// How many frames are compressed at a time.
    pub(crate) jobs: usize,
}

/// Makes frames of runs and sends them, until no more runs can come and all are sent.
pub(crate) async fn send_all(runs: mpsc::Receiver<Outgoing>, sending: Arc<Sending>) {
    let (frames, ready) = mpsc::channel(4);
    tokio::join!(encode_all(runs, frames, sending.clone()), upload_all(ready, sending));
}

async fn encode_all(runs: mpsc::Receiver<Outgoing>, frames: mpsc::Sender<Ready>, sending: Arc<Sending>) {
    let weight = run_bytes(sending.remote.limits());
    let window = Window { stage: Stage::Encode, weight, longest: LONGEST };
    let mut batches = Batches::new(runs, sending.pulse.clone(), window);
    let places = Arc::new(Semaphore::new(sending.jobs.max(1)));
    let mut under_way = JoinSet::new();
    while let Some(batch) = batches.next(|outgoing| outgoing.run.bytes()).await {
        let place = places.clone().acquire_owned().await.expect("it is never closed");
        let (frames, sending) = (frames.clone(), sending.clone());
        under_way.spawn(async move {
            let blocking = Arc::clone(&sending);
            let encoded = spawn_blocking(move || encode(batch, &blocking)).await;
            drop(sending);
            drop(place);
            // A thread that panicked has dropped where to tell: whoever waits is told so.
            if let Ok(Some(ready)) = encoded {
                let _ = frames.send(ready).await;
            }
        });
        while under_way.try_join_next().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
}

/// Makes one frame of some runs. If that fails they are told.
fn encode(batch: Vec<Outgoing>, sending: &Sending) -> Option<Ready> {
    let (mut together, mut holds, mut tell) = (Run::default(), Vec::new(), Vec::new());
    for Outgoing { mut run, hold, present, advance, done } in batch {
        tell.push(Told { done, advance, raw: run.bytes() as u64 });
        holds.push((hold, present));
        together.ids.append(&mut run.ids);
        together.lens.append(&mut run.lens);
        together.origins.append(&mut run.origins);
        together.pieces.append(&mut run.pieces);
    }
    if together.pieces.len() != 1 {
        together.compact();
    }
    let data = together.pieces.pop().unwrap_or_default();
    let ids: Vec<[u8; 32]> = together.ids.iter().map(|id| id.0).collect();
    let encoded = FrameEncoder::new()
        .and_then(|mut encoder| encoder.encode(FrameKind::Chunks, &data, &together.lens, &ids, sending.level));
    let hints = if sending.remote.takes_hints() { hints(&data, &together) } else { Vec::new() };
    drop(data);
    let present = sending.pulse.enter(Stage::Send);
    drop(holds);
    match encoded {
        Ok(frame) => {
            // It was made with room for what could not be compressed.
            let mut bytes = frame.bytes;
            bytes.shrink_to_fit();
            Some(Ready { bytes: bytes.len(), frame: bytes.into(), hints, runs: tell, _present: present })
        }
        Err(error) => {
            let error = Error::Setup { what: "make a frame".to_owned(), detail: error.to_string() };
            for told in tell {
                told.failed(&error);
            }
            None
        }
    }
}

/// Returns the hints of a run's chunks, which lie in `data` one behind the other.
fn hints(mut data: &[u8], run: &Run) -> Vec<Hint> {
    let mut hints = Vec::with_capacity(run.lens.len());
    for (len, origin) in run.lens.iter().zip(&run.origins) {
        let (chunk, rest) = data.split_at(*len as usize);
        hints.push(Hint::new(*origin, chunk));
        data = rest;
    }
    hints
}

async fn upload_all(ready: mpsc::Receiver<Ready>, sending: Arc<Sending>) {
    let weight = sending.remote.limits().body_bytes.min(REQUEST_BYTES);
    let window = Window { stage: Stage::Send, weight, longest: LONGEST };
    let mut batches = Batches::new(ready, sending.pulse.clone(), window);
    let mut under_way = JoinSet::new();
    loop {
        while under_way.len() >= IN_FLIGHT {
            under_way.join_next().await;
        }
        let Some(frames) = batches.next(Ready::weight).await else { break };
        let sending = sending.clone();
        under_way.spawn(async move { upload(frames, &sending).await });
    }
    while under_way.join_next().await.is_some() {}
}

/// Sends frames in one request; in several and without hints, if something on the way takes no request of that length.
async fn upload(mut frames: Vec<Ready>, sending: &Sending) {
    let pieces = frames.iter_mut().map(|ready| std::mem::take(&mut ready.frame)).collect();
    let mut waiting = vec![(frames, pieces)];
    while let Some((mut frames, pieces)) = waiting.pop() {
        let Body { bytes, hints } = Body::of(&frames, pieces);
        match sending.remote.send_frames(bytes.clone(), hints).await {
            Ok(_) => {
                add(&sending.counters.frame_bytes, bytes.len() as u64);
                frames.into_iter().for_each(Ready::sent);
            }
            Err(Error::Refused { kind: Refusal::TooLarge, .. }) if frames.len() > 1 || hints > 0 => {
                let mut rest = bytes.slice(hints as usize * HINT_BYTES..);
                let behind = frames.split_off(frames.len().div_ceil(2));
                if behind.is_empty() {
                    for ready in &mut frames {
                        ready.hints.clear();
                    }
                } else {
                    let behind_them = rest.split_off(frames.iter().map(|ready| ready.bytes).sum());
                    waiting.push((behind, vec![behind_them]));
                }
                waiting.push((frames, vec![rest]));
            }
            Err(error) => {
                frames.into_iter().flat_map(|frame| frame.runs).for_each(|told| told.failed(&error));
            }
        }
    }
}

/// The body of a request.
struct Body {
    bytes: Bytes,
    /// How many hints it begins with.
    hints: u32,
}

impl Body {
    /// Puts the hints of frames before `pieces`, which are these frames' bytes. They are in memory once.
    fn of(frames: &[Ready], mut pieces: Vec<Bytes>) -> Self {
        let hints: Vec<Hint> = frames.iter().flat_map(|ready| &ready.hints).copied().collect();
        let count = u32::try_from(hints.len()).expect("a request has at most 65,536 chunks");
        if let (0, [one]) = (count, &mut pieces[..]) {
            return Self { bytes: std::mem::take(one), hints: 0 };
        }
        let mut bytes = encode_hints(&hints);
        bytes.reserve_exact(pieces.iter().map(Bytes::len).sum());
        for piece in pieces {
            bytes.extend_from_slice(&piece);
        }
        Self { bytes: bytes.into(), hints: count }
    }
}
