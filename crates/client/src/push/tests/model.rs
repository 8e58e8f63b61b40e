//! A server that keeps what it is sent in memory, and has whims.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use firn_api::{Bitmap, Capabilities, Code, Commit, Endpoint, Limits, PathAnswer, PathStatus, decode_ids, split_hints};
use firn_chunk::{ChunkId, ChunkerId, Hint, Recipe, RecipeId};
use firn_nix::StorePath;
use firn_pack::FrameDecoder;

use crate::remote::{Body, Reply, Request, Sending, Transport};

/// What the server has.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) chunks: HashSet<ChunkId>,
    pub(super) recipes: HashMap<RecipeId, Vec<u8>>,
    pub(super) paths: BTreeSet<StorePath>,
    /// How many chunks it was sent, those that it had included.
    pub(super) sent_chunks: usize,
    /// At the next commit it has forgotten all chunks.
    pub(super) forget_once: bool,
    /// Requests with more bytes of frames than this are too large on the way.
    pub(super) most_bytes: Option<usize>,
    /// How many requests with frames were taken, and how many of them had hints.
    pub(super) taken: (usize, usize),
    /// Every request is refused so.
    pub(super) refuse: Option<(u16, &'static str)>,
}

/// A server.
#[derive(Clone, Default)]
pub(super) struct Model(pub(super) Arc<Mutex<Contents>>);

impl Transport for Model {
    fn send(&self, request: Request) -> Sending<'_> {
        let (status, body) = self.0.lock().unwrap().answer(&request);
        let body = Body::script([Ok(Bytes::from(body))]);
        Box::pin(async move { Ok(Reply { status, retry_after: None, location: None, body }) })
    }
}

impl Contents {
    fn answer(&mut self, request: &Request) -> (u16, Vec<u8>) {
        let (_, endpoint) = Endpoint::parse(&request.path).expect("clients know the endpoints");
        let is_first = endpoint == Endpoint::Capabilities;
        if let Some((status, code)) = self.refuse.filter(|_| !is_first) {
            return (status, format!(r#"{{"code":"{code}"}}"#).into_bytes());
        }
        let body = match endpoint {
            Endpoint::Capabilities => {
                serde_json::to_vec(&Capabilities::current("model".to_owned(), ChunkerId::CURRENT)).unwrap()
            }
            Endpoint::Sessions => format!(r#"{{"session":"{}","lease_seconds":9}}"#, "a".repeat(32)).into_bytes(),
            Endpoint::KnownRecipes => {
                self.bits(&request.body, |contents, id| contents.recipes.contains_key(&RecipeId(id)))
            }
            Endpoint::MissingChunks => self.bits(&request.body, |contents, id| !contents.chunks.contains(&ChunkId(id))),
            Endpoint::Frames { .. } if self.most_bytes.is_some_and(|most| request.body.len() > most) => {
                return (413, Vec::new());
            }
            Endpoint::Frames { hints } => {
                self.taken = (self.taken.0 + 1, self.taken.1 + usize::from(hints > 0));
                let (hints, frames) = split_hints(&request.body, hints, usize::MAX).unwrap();
                self.take_frames(frames, &hints)
            }
            Endpoint::Commits => self.commit(request),
            _ => Vec::new(),
        };
        (200, body)
    }

    fn bits(&self, body: &[u8], bit: impl Fn(&Self, [u8; 32]) -> bool) -> Vec<u8> {
        let ids: Vec<ChunkId> = decode_ids(body, usize::MAX).unwrap();
        Bitmap::from_bools(&ids.iter().map(|id| bit(self, id.0)).collect::<Vec<_>>()).into_bytes()
    }

    fn take_frames(&mut self, mut body: &[u8], hints: &[Hint]) -> Vec<u8> {
        let (is_hinted, mut hints) = (!hints.is_empty(), hints.iter());
        while !body.is_empty() {
            // Lengths of header and payload stand in the frame's fixed part; see docs/FORMAT.md.
            let field = |at: usize| u32::from_le_bytes(*body[at..].first_chunk().unwrap()) as usize;
            let (frame, rest) = body.split_at(field(12) + field(16));
            let frame = FrameDecoder::new().unwrap().decode(frame).unwrap();
            for item in (0..).map_while(|index| frame.item(index)) {
                self.chunks.insert(ChunkId::of(item));
                if let Some(hint) = hints.next() {
                    assert_eq!(*hint, Hint::new(hint.origin, item));
                } else {
                    assert!(!is_hinted, "there is a hint for each chunk");
                }
                self.sent_chunks += 1;
            }
            body = rest;
        }
        assert_eq!(hints.next(), None);
        b"{}".to_vec()
    }

    fn commit(&mut self, request: &Request) -> Vec<u8> {
        let is_packed = request.headers.iter().any(|(name, _)| *name == "content-encoding");
        let body = if is_packed { zstd::decode_all(&request.body[..]).unwrap() } else { request.body.to_vec() };
        if std::mem::take(&mut self.forget_once) {
            self.chunks.clear();
        }
        let commit = Commit::decode(&body, &Limits::default()).unwrap();
        let (mut answer, mut refused) = (Vec::new(), BTreeSet::new());
        for uploaded in commit.paths {
            let item = uploaded.item;
            let missing = |path: &&StorePath| **path != item.path && !self.paths.contains(*path);
            let missing: Vec<&StorePath> = item.references.iter().filter(missing).collect();
            // One that came before it in the same commit and was refused takes it along.
            let is_known = missing.iter().all(|path| refused.contains(*path));
            assert!(is_known, "{} was committed before its references", item.path);
            if !missing.is_empty() {
                let mut line = PathAnswer::new(item.path.clone(), PathStatus::Error);
                line.code = Some(Code::ReferencesMissing.as_str().to_owned());
                answer.extend(line.to_line());
                refused.insert(item.path);
                continue;
            }
            if let Some(recipe) = uploaded.recipe {
                assert_eq!(RecipeId::of(recipe), item.recipe);
                self.recipes.insert(item.recipe, recipe.to_vec());
            }
            let mut line = PathAnswer::new(item.path.clone(), PathStatus::RecipeUnknown);
            if let Some(encoded) = self.recipes.get(&item.recipe) {
                let recipe = Recipe::decode(encoded).unwrap();
                let missing: Vec<bool> = recipe.chunks.iter().map(|chunk| !self.chunks.contains(&chunk.id)).collect();
                if missing.contains(&true) {
                    line.status = PathStatus::MissingChunks;
                    line.missing = Some(Bitmap::from_bools(&missing).to_base64());
                    refused.insert(item.path);
                } else {
                    let is_new = self.paths.insert(item.path);
                    line.status = if is_new { PathStatus::Created } else { PathStatus::Merged };
                }
            }
            answer.extend(line.to_line());
        }
        answer
    }
}
