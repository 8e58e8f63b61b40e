//! Runs of missing chunks become frames, and frames requests.
//!
//! Runs of several paths may share a frame: a rebuild changes a little in many paths, and a frame of 30 KiB for each would
//! compress worse. A run is never divided.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_pack::{FrameEncoder, FrameKind};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{JoinSet, spawn_blocking};

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

/// A run on its way. The answer is its part of the frame's bytes.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// The chunks.
    pub(crate) run: Run,
    /// Their memory.
    pub(crate) hold: Reserved,
    /// That the run's path is here.
    pub(crate) present: Present,
    /// Where to tell that the server has them.
    pub(crate) done: oneshot::Sender<Result<u64>>,
}

/// A frame on its way.
struct Ready {
    bytes: Vec<u8>,
    /// For each run in it where to tell, and its part of the bytes.
    runs: Vec<(oneshot::Sender<Result<u64>>, u64)>,
    _present: Present,
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
    let weight = sending.remote.limits().frame_raw_bytes;
    let window = Window { stage: Stage::Encode, weight, longest: LONGEST };
    let mut batches = Batches::new(runs, sending.pulse.clone(), window);
    let places = Arc::new(Semaphore::new(sending.jobs.max(1)));
    let mut under_way = JoinSet::new();
    while let Some(batch) = batches.next(|outgoing| outgoing.run.data.len()).await {
        let place = places.clone().acquire_owned().await.expect("it is never closed");
        let (frames, sending) = (frames.clone(), sending.clone());
        under_way.spawn(async move {
            let (level, pulse) = (sending.level, sending.pulse.clone());
            let encoded = spawn_blocking(move || encode(batch, level, &pulse)).await;
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
fn encode(batch: Vec<Outgoing>, level: i32, pulse: &Pulse) -> Option<Ready> {
    let mut together = Run::default();
    let (mut holds, mut tell) = (Vec::new(), Vec::new());
    for (place, outgoing) in batch.into_iter().enumerate() {
        let Outgoing { mut run, hold, present, done } = outgoing;
        tell.push((done, run.data.len() as u64));
        holds.push((hold, present));
        if place == 0 {
            together = run;
        } else {
            together.ids.append(&mut run.ids);
            together.lens.append(&mut run.lens);
            together.data.append(&mut run.data);
        }
    }
    let ids: Vec<[u8; 32]> = together.ids.iter().map(|id| id.0).collect();
    let encoded = FrameEncoder::new()
        .and_then(|mut encoder| encoder.encode(FrameKind::Chunks, &together.data, &together.lens, &ids, level));
    let raw_bytes = (together.data.len() as u64).max(1);
    drop(together);
    let present = pulse.enter(Stage::Send);
    drop(holds);
    match encoded {
        Ok(frame) => {
            let part = |len: u64| len * frame.bytes.len() as u64 / raw_bytes;
            let runs = tell.into_iter().map(|(done, len)| (done, part(len))).collect();
            Some(Ready { bytes: frame.bytes, runs, _present: present })
        }
        Err(error) => {
            let error = Error::Setup { what: "make a frame".to_owned(), detail: error.to_string() };
            for (done, _) in tell {
                let _ = done.send(Err(error.clone()));
            }
            None
        }
    }
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
        let Some(frames) = batches.next(|frame| frame.bytes.len()).await else { break };
        let sending = sending.clone();
        under_way.spawn(async move { upload(frames, &sending).await });
    }
    while under_way.join_next().await.is_some() {}
}

/// Sends frames in one request; in several, if something on the way takes no request of that length.
async fn upload(frames: Vec<Ready>, sending: &Sending) {
    let mut waiting = vec![frames];
    while let Some(mut frames) = waiting.pop() {
        let body: Bytes = match frames.as_mut_slice() {
            [one] => std::mem::take(&mut one.bytes).into(),
            several => several.iter().flat_map(|frame| frame.bytes.iter().copied()).collect::<Vec<u8>>().into(),
        };
        let body_bytes = body.len() as u64;
        match sending.remote.send_frames(body).await {
            Ok(_) => {
                add(&sending.counters.frame_bytes, body_bytes);
                for (done, part) in frames.into_iter().flat_map(|frame| frame.runs) {
                    let _ = done.send(Ok(part));
                }
            }
            Err(Error::Refused { kind: Refusal::TooLarge, .. }) if frames.len() > 1 => {
                let behind = frames.split_off(frames.len() / 2);
                waiting.push(behind);
                waiting.push(frames);
            }
            Err(error) => {
                for (done, _) in frames.into_iter().flat_map(|frame| frame.runs) {
                    let _ = done.send(Err(error.clone()));
                }
            }
        }
    }
}
