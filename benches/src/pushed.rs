//! Storing a corpus through the engine's push API, with a client in this process whose CPU time is told apart.

use std::path::Path;

use anyhow::{Context, anyhow};
use firn_chunk::{Chunk, ChunkId, Chunker, Cut, Hint, Input, Origin, RecipeId};
use firn_engine::{Assembled, Engine, Error, NarClaim, PathUpload, PushedFrames, Scope};
use firn_index::{CacheName, SessionId};
use firn_nix::{Sha256, StoreHash};
use firn_pack::{FrameEncoder, FrameKind};

/// Uncompressed bytes of a frame.
const FRAME_BYTES: usize = 1 << 20;

/// Bytes of frames in one request.
const BODY_BYTES: usize = 8 << 20;

/// Paths that are committed together.
const BATCH: usize = 64;

/// A client that cuts and compresses by itself.
pub(crate) struct Client {
    encoder: FrameEncoder,
    session: SessionId,
    batch: Vec<(PathUpload, Option<Assembled>)>,
    /// CPU seconds of everything that a real client would do elsewhere.
    pub(crate) cpu: f64,
}

/// A NAR that was cut; its chunks in order.
struct Local {
    cut: Cut,
    chunks: Vec<Piece>,
    encoded: Vec<u8>,
}

struct Piece {
    id: ChunkId,
    data: Vec<u8>,
    origin: Option<Origin>,
}

/// What one request takes.
#[derive(Default)]
struct Body {
    frames: Vec<u8>,
    hints: Vec<Hint>,
}

impl Client {
    pub(crate) fn new(engine: &Engine) -> anyhow::Result<Self> {
        Ok(Self { encoder: FrameEncoder::new()?, session: engine.begin_session()?, batch: Vec::new(), cpu: 0.0 })
    }

    /// Pushes one path as a client does: asks for the recipe, then for chunks, sends what is missing, commits when there
    /// are enough paths.
    pub(crate) fn push(
        &mut self,
        engine: &Engine,
        cache: &CacheName,
        nar: &Path,
        level: i32,
        upload: PathUpload,
    ) -> anyhow::Result<()> {
        let start = thread_cpu_seconds()?;
        let local = cut(nar)?;
        self.cpu += thread_cpu_seconds()? - start;
        let recipe = RecipeId::of(&local.encoded);
        let known = engine.known_recipes(&Scope::Store, &[recipe])? == [true];
        let claim = claim(&local, recipe, &upload, known);
        if !known {
            let ids: Vec<ChunkId> = local.chunks.iter().map(|chunk| chunk.id).collect();
            let missing = engine.missing_chunks(&Scope::Store, &ids)?;
            let start = thread_cpu_seconds()?;
            let bodies = self.bodies(&local, &missing, level)?;
            self.cpu += thread_cpu_seconds()? - start;
            for body in &bodies {
                let pushed = PushedFrames { frames: &body.frames, hints: &body.hints };
                engine.take_frames(self.session, &Scope::Store, cache, pushed)?;
            }
            let start = thread_cpu_seconds()?;
            drop(bodies);
            self.cpu += thread_cpu_seconds()? - start;
        }
        let start = thread_cpu_seconds()?;
        drop(local);
        self.cpu += thread_cpu_seconds()? - start;
        let assembled = match engine.assemble(self.session, &Scope::Store, cache, claim) {
            Err(error @ (Error::MissingChunks(_) | Error::RecipeUnknown)) => {
                return Err(anyhow!(error).context("nothing may be missing that was sent"));
            }
            other => other?,
        };
        self.batch.push((upload, Some(assembled)));
        if self.batch.len() < BATCH { Ok(()) } else { self.commit(engine, cache) }
    }

    /// Commits what was pushed so far.
    pub(crate) fn commit(&mut self, engine: &Engine, cache: &CacheName) -> anyhow::Result<()> {
        for outcome in engine.commit_pushed(cache, std::mem::take(&mut self.batch)) {
            outcome?;
        }
        Ok(())
    }

    fn bodies(&mut self, local: &Local, missing: &[bool], level: i32) -> anyhow::Result<Vec<Body>> {
        let (mut bodies, mut run): (Vec<Body>, Vec<usize>) = (Vec::new(), Vec::new());
        let mut run_bytes = 0;
        let mut sent = std::collections::HashSet::new();
        for (number, Piece { id, data, .. }) in local.chunks.iter().enumerate() {
            if !missing[number] || !sent.insert(*id) {
                continue;
            }
            if run_bytes + data.len() > FRAME_BYTES {
                self.add_frame(&mut bodies, local, &std::mem::take(&mut run), level)?;
                run_bytes = 0;
            }
            run_bytes += data.len();
            run.push(number);
        }
        if !run.is_empty() {
            self.add_frame(&mut bodies, local, &run, level)?;
        }
        Ok(bodies)
    }

    fn add_frame(&mut self, bodies: &mut Vec<Body>, local: &Local, run: &[usize], level: i32) -> anyhow::Result<()> {
        let chunks: Vec<&Piece> = run.iter().map(|number| &local.chunks[*number]).collect();
        let data: Vec<u8> = chunks.iter().flat_map(|chunk| &chunk.data).copied().collect();
        let lens: Vec<u32> = chunks.iter().map(|chunk| chunk.data.len() as u32).collect();
        let ids: Vec<[u8; 32]> = chunks.iter().map(|chunk| chunk.id.0).collect();
        let hints = chunks.iter().map(|chunk| Hint::new(chunk.origin, &chunk.data));
        let frame = self.encoder.encode(FrameKind::Chunks, &data, &lens, &ids, level)?.bytes;
        match bodies.last_mut() {
            Some(body) if body.frames.len() + frame.len() <= BODY_BYTES => {
                body.frames.extend(frame);
                body.hints.extend(hints);
            }
            _ => bodies.push(Body { frames: frame, hints: hints.collect() }),
        }
        Ok(())
    }
}

fn cut(nar: &Path) -> anyhow::Result<Local> {
    let bytes = std::fs::read(nar)?;
    let (mut chunker, mut chunks) = (Chunker::new(Input::Nar), Vec::new());
    let mut take = |chunk: Chunk<'_>| {
        chunks.push(Piece { id: chunk.id, data: chunk.data.to_vec(), origin: chunk.origin });
    };
    chunker.push(&bytes, &mut take)?;
    let cut = chunker.finish(&mut take)?;
    let encoded = cut.recipe.encode();
    Ok(Local { cut, chunks, encoded })
}

fn claim(local: &Local, recipe: RecipeId, upload: &PathUpload, known: bool) -> NarClaim {
    let slots: Vec<StoreHash> = local.cut.slots.clone();
    let nar_hash: Sha256 = upload.nar_hash;
    NarClaim { recipe, encoded: (!known).then(|| local.encoded.clone()), slots, nar_hash, nar_size: upload.nar_size }
}

/// Returns the CPU seconds of this thread so far, in nanoseconds' steps.
fn thread_cpu_seconds() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds: f64 = text.split_whitespace().next().context("read schedstat")?.parse()?;
    Ok(nanoseconds / 1e9)
}
