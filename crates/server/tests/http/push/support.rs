//! A client as somebody else may write one: by the protocol's description, with nothing of ours but the chunker.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use firn_chunk::{Chunk, ChunkId, Chunker, Input, RecipeId};
use firn_nix::StoreHash;
use firn_testkit::http::{Answer, Request};
use serde_json::{Value, json};

use crate::support::{Package, World};

/// A package as a client cuts it.
pub(crate) struct Parcel {
    pub(crate) package: Package,
    pub(crate) chunks: Vec<(ChunkId, Vec<u8>)>,
    pub(crate) encoded: Vec<u8>,
    pub(crate) slots: Vec<StoreHash>,
    /// As docs/PROTOCOL.md draws them, back to back.
    pub(crate) hints: Vec<u8>,
}

impl Parcel {
    pub(crate) fn new(seed: u64, bytes: usize) -> Self {
        Self::of(Package::new(seed, bytes))
    }

    pub(crate) fn of(package: Package) -> Self {
        let (mut chunks, mut hints) = (Vec::new(), Vec::new());
        let mut chunker = Chunker::new(Input::Nar);
        let mut take = |chunk: Chunk<'_>| {
            chunks.push((chunk.id, chunk.data.to_vec()));
            let (key, offset) = chunk.origin.map_or((0, u64::MAX), |origin| (origin.key, origin.offset));
            let [first, second] = firn_chunk::features(chunk.data).unwrap_or_default();
            hints.extend([key, offset, first, second].into_iter().flat_map(u64::to_le_bytes));
        };
        chunker.push(&package.nar, &mut take).unwrap();
        let cut = chunker.finish(&mut take).unwrap();
        Self { package, chunks, encoded: cut.recipe.encode(), slots: cut.slots, hints }
    }

    pub(crate) fn recipe(&self) -> RecipeId {
        RecipeId::of(&self.encoded)
    }

    pub(crate) fn path(&self) -> String {
        self.package.path.to_string()
    }

    /// Returns the ids of all chunks, back to back.
    pub(crate) fn ids(&self) -> Vec<u8> {
        self.chunks.iter().flat_map(|(id, _)| id.0).collect()
    }

    /// Returns all chunks in frames of one each.
    pub(crate) fn frames(&self) -> Vec<u8> {
        self.chunks.iter().flat_map(|(_, chunk)| frame(&[chunk])).collect()
    }

    /// Returns the path's item for a commit.
    pub(crate) fn item(&self, with_recipe: bool) -> Value {
        let references: Vec<_> = self.package.references.iter().map(ToString::to_string).collect();
        let slots: Vec<_> = self.slots.iter().map(ToString::to_string).collect();
        let mut item = json!({
            "path": self.path(),
            "nar_hash": self.package.nar_hash().to_string(),
            "nar_size": self.package.nar.len(),
            "references": references,
            "recipe": self.recipe().to_string(),
            "slots": slots,
        });
        if with_recipe {
            item["recipe_bytes"] = self.encoded.len().into();
        }
        item
    }
}

/// Writes a frame as docs/FORMAT.md draws it, not compressed.
pub(crate) fn frame(chunks: &[&[u8]]) -> Vec<u8> {
    let word = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
    let payload = chunks.concat();
    let mut frame = vec![0xf1, b'R', b'N', b'f', 1, 0, 0, 0];
    frame.extend(word(chunks.len()));
    frame.extend(word(40 + 4 * chunks.len()));
    frame.extend(word(payload.len()));
    frame.extend(word(payload.len()));
    frame.extend(xxhash_rust::xxh3::xxh3_64(&payload).to_le_bytes());
    frame.extend(chunks.iter().flat_map(|chunk| word(chunk.len())));
    frame.extend(xxhash_rust::xxh3::xxh3_64(&frame).to_le_bytes());
    frame.extend(payload);
    frame
}

/// Returns a commit's body.
pub(crate) fn body(head: &Value, recipes: &[&[u8]]) -> Vec<u8> {
    [head.to_string().as_bytes(), b"\n", &recipes.concat()].concat()
}

/// Returns the code of a refusal that was told as JSON.
pub(crate) fn code(answer: &Answer) -> String {
    let value: Value = serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("no JSON: {}", answer.text()));
    for key in ["message", "hint"] {
        assert!(value[key].is_string(), "{value}");
    }
    assert_eq!(answer.header("content-type"), Some("application/json"));
    value["code"].as_str().unwrap().to_owned()
}

/// Returns status and code of a refusal.
pub(crate) fn refusal(answer: &Answer) -> (u16, String) {
    (answer.status, code(answer))
}

/// A client with a token and perhaps a session, at one cache.
#[derive(Clone)]
pub(crate) struct Client {
    address: SocketAddr,
    cache: String,
    token: Option<String>,
    pub(crate) session: Option<String>,
}

impl Client {
    pub(crate) fn new(world: &World, cache: &str, token: Option<&str>) -> Self {
        Self::at(world.address, cache, token)
    }

    /// Returns a client of any server.
    pub(crate) fn at(address: SocketAddr, cache: &str, token: Option<&str>) -> Self {
        Self { address, cache: cache.to_owned(), token: token.map(str::to_owned), session: None }
    }

    /// Returns a client with a session.
    pub(crate) fn begin(world: &World, cache: &str, token: &str) -> Self {
        Self::new(world, cache, Some(token)).started()
    }

    /// Begins a session.
    pub(crate) fn started(self) -> Self {
        let mut client = self;
        let answer = client.send("POST", "/sessions", Vec::new());
        assert_eq!(answer.status, 200, "{}", answer.text());
        let value: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(value["lease_seconds"], 3600);
        client.session = value["session"].as_str().map(str::to_owned);
        client
    }

    /// Returns a client that names another session, or none.
    pub(crate) fn in_session(&self, session: Option<&str>) -> Self {
        Self { session: session.map(str::to_owned), ..self.clone() }
    }

    /// Returns a request; `rest` follows the cache's name.
    pub(crate) fn request(&self, method: &str, rest: &str) -> Request {
        let mut request = Request::new(method, &format!("/api/v1/caches/{}{rest}", self.cache));
        request = request.header("Accept", "application/json");
        if let Some(token) = &self.token {
            request = request.token(token);
        }
        match &self.session {
            Some(session) => request.header("Firn-Session", session),
            None => request,
        }
    }

    pub(crate) fn send(&self, method: &str, rest: &str, body: impl Into<Vec<u8>>) -> Answer {
        self.request(method, rest).body(body).send(self.address).unwrap()
    }

    pub(crate) fn post(&self, rest: &str, body: impl Into<Vec<u8>>) -> Answer {
        self.send("POST", rest, body)
    }

    /// Asks a question about `count` things and returns the bits of its answer.
    pub(crate) fn ask(&self, question: &str, ids: Vec<u8>, count: usize) -> Vec<bool> {
        let answer = self.post(question, ids);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.body.len(), count.div_ceil(8));
        (0..count).map(|i| answer.body[i / 8] >> (i % 8) & 1 == 1).collect()
    }

    /// Uploads frames.
    pub(crate) fn frames(&self, frames: Vec<u8>) -> Value {
        let answer = self.post("/frames", frames);
        assert_eq!(answer.status, 200, "{}", answer.text());
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// Commits, and returns the answers.
    pub(crate) fn commit(&self, body: Vec<u8>) -> Vec<Value> {
        let answer = self.post("/commits", body);
        assert_eq!((answer.status, answer.whole), (200, true), "{}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
        let text = answer.text();
        let lines = text.lines().filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Pushes whole parcels in one commit and returns what became of each.
    pub(crate) fn push(&self, parcels: &[&Parcel]) -> Vec<String> {
        for parcel in parcels {
            self.frames(parcel.frames());
        }
        let items: Vec<_> = parcels.iter().map(|parcel| parcel.item(true)).collect();
        let recipes: Vec<&[u8]> = parcels.iter().map(|parcel| &parcel.encoded[..]).collect();
        let answers = self.commit(body(&json!({ "paths": items }), &recipes));
        answers.iter().map(status).collect()
    }
}

/// Returns the status of an answer to a path.
pub(crate) fn status(answer: &Value) -> String {
    answer["status"].as_str().unwrap().to_owned()
}

/// Returns the bits of a bitmap in base64.
pub(crate) fn missing(answer: &Value, count: usize) -> Vec<bool> {
    let bytes = BASE64.decode(answer["missing"].as_str().unwrap()).unwrap();
    assert_eq!(bytes.len(), count.div_ceil(8));
    (0..count).map(|i| bytes[i / 8] >> (i % 8) & 1 == 1).collect()
}
