//! The endpoints of the push API.

use bytes::Bytes;
use firn_api::{
    AnswerReader, Bitmap, CacheDescription, Capabilities, Endpoint, FramesTaken, PathAnswer, Pin, PinAdd, PinRemove,
    Pins, Session, SessionToken, WireId, encode_ids,
};
use firn_chunk::{ChunkId, RecipeId};
use firn_nix::{StoreHash, StorePath};
use serde::de::DeserializeOwned;

use super::Remote;
use super::exchange::{Call, Reader, Whole};
use crate::{Error, Refusal, Result};

/// The longest JSON answer that is read, beside those to commits.
const MAX_JSON_BYTES: usize = 256 << 10;

/// The longest list of pins that is read: a server takes 10,000 from clients.
const MAX_LIST_BYTES: usize = 16 << 20;

/// A part of a recipe that is not longer is not divided further: no proxy takes less.
const MIN_PART_BYTES: usize = 64 << 10;

/// The zstd level of commits: text that repeats itself, a few KiB to a few MiB.
const COMMIT_LEVEL: i32 = 9;

impl Remote {
    pub(super) async fn ask_capabilities(&self) -> Result<Capabilities> {
        self.json(Call::new("ask what the server can do", Endpoint::Capabilities)).await
    }

    /// Returns what the cache is, and what we may do with it.
    ///
    /// # Errors
    /// As all requests: [`crate::Error::Unreachable`], [`crate::Error::Refused`], [`crate::Error::Nonsense`].
    pub async fn describe(&self) -> Result<CacheDescription> {
        self.json(Call::new("ask about the cache", Endpoint::Cache)).await
    }

    /// Begins a session. Boxed, since requests that lean on one call it.
    pub(super) fn begin_session(&self) -> std::pin::Pin<Box<dyn Future<Output = Result<SessionToken>> + Send + '_>> {
        Box::pin(async {
            let session: Session = self.json(Call::new("begin a session", Endpoint::Sessions)).await?;
            Ok(session.session)
        })
    }

    pub(super) async fn drop_session(&self, session: SessionToken) {
        let call = Call::new("end the session", Endpoint::Session(session));
        let ended = tokio::time::timeout(
            std::time::Duration::from_secs(5),
            self.exchange(&call, || Whole::new(MAX_JSON_BYTES)),
        )
        .await;
        if !matches!(ended, Ok(Ok(_))) {
            tracing::debug!("the session was not ended: its lease runs out by itself");
        }
    }

    /// Returns, for at most `limits().paths` store hashes, which of them the cache lacks.
    ///
    /// # Errors
    /// As all requests.
    pub async fn missing_paths(&self, hashes: &[StoreHash]) -> Result<Vec<bool>> {
        let mut call = self.question("ask for missing paths", Endpoint::MissingPaths, hashes);
        call.in_session = false;
        self.bits(&call, hashes.len()).await
    }

    /// Returns, for at most `limits().recipes` recipes, which of them need not be uploaded.
    ///
    /// # Errors
    /// As all requests.
    pub async fn known_recipes(&self, ids: &[RecipeId]) -> Result<Vec<bool>> {
        self.bits(&self.question("ask for known recipes", Endpoint::KnownRecipes, ids), ids.len()).await
    }

    /// Returns, for at most `limits().chunks` chunks, which of them the server lacks.
    ///
    /// # Errors
    /// As all requests.
    pub async fn missing_chunks(&self, ids: &[ChunkId]) -> Result<Vec<bool>> {
        self.bits(&self.question("ask for missing chunks", Endpoint::MissingChunks, ids), ids.len()).await
    }

    /// Uploads frames that lie back to back, behind so many hints (none, unless [`Self::takes_hints`]), in a body of at most
    /// `limits().body_bytes`.
    ///
    /// # Errors
    /// As all requests.
    pub async fn send_frames(&self, body: Bytes, hints: u32) -> Result<FramesTaken> {
        self.json(Call::with_body("upload frames", Endpoint::Frames { hints }, body)).await
    }

    /// Uploads the encoding of a recipe that is too long for a commit, in parts. It is kept as long as the session.
    ///
    /// # Errors
    /// As all requests; also if a part does not follow what came before, since the session is another one by now.
    pub async fn upload_recipe(&self, recipe: RecipeId, encoded: Bytes) -> Result<()> {
        let length = encoded.len() as u64;
        let mut step = self.limits().recipe_bytes;
        let mut offset = 0;
        while offset < encoded.len() {
            let part = encoded.slice(offset..encoded.len().min(offset.saturating_add(step)));
            let part_bytes = part.len();
            let endpoint = Endpoint::RecipePart { recipe, offset: offset as u64, length };
            let call = Call::with_body("upload a recipe", endpoint, part);
            match self.exchange(&call, || Whole::new(MAX_JSON_BYTES)).await {
                Ok(_) => offset += part_bytes,
                // Something on the way takes no request of that length.
                Err(Error::Refused { kind: Refusal::TooLarge, .. }) if part_bytes > MIN_PART_BYTES => {
                    step = part_bytes / 2;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Returns the cache's pins, by name.
    ///
    /// # Errors
    /// As all requests.
    pub async fn pins(&self) -> Result<Vec<Pin>> {
        let pins: Pins = self.long_json(Call::new("list the pins", Endpoint::Pins)).await?;
        Ok(pins.pins)
    }

    /// Pins a path of the cache with all that it refers to, or moves the pin of that name.
    ///
    /// # Errors
    /// As all requests.
    pub async fn add_pin(&self, pin: &PinAdd) -> Result<Pin> {
        self.json(Self::with_json("pin the path", Endpoint::PinAdd, pin)).await
    }

    /// Removes a pin and returns what it was.
    ///
    /// # Errors
    /// As all requests.
    pub async fn remove_pin(&self, name: &str) -> Result<Pin> {
        let asked = PinRemove { name: name.to_owned() };
        self.json(Self::with_json("remove the pin", Endpoint::PinRemove, &asked)).await
    }

    fn with_json(doing: &'static str, endpoint: Endpoint, value: &impl serde::Serialize) -> Call {
        let body = serde_json::to_vec(value).expect("texts and numbers are JSON");
        Call { in_session: false, ..Call::with_body(doing, endpoint, body) }
    }

    /// Sends the body of a commit and returns what became of each of its paths, in order.
    ///
    /// # Errors
    /// As all requests. Some of the paths may be committed nevertheless: the same commit again tells.
    pub async fn commit(&self, body: &[u8], paths: &[StorePath]) -> Result<Vec<PathAnswer>> {
        let packed = zstd::bulk::compress(body, COMMIT_LEVEL).unwrap_or_default();
        let mut call = Call::with_body("commit paths", Endpoint::Commits, Bytes::new());
        if packed.is_empty() || packed.len() >= body.len() {
            call.body = Bytes::copy_from_slice(body);
        } else {
            call.body = packed.into();
            call.headers.push(("content-encoding", "zstd".to_owned()));
        }
        let lines = || Lines { reader: AnswerReader::new(paths.iter().cloned()), answers: Vec::new() };
        self.exchange(&call, lines).await
    }

    fn question<I: WireId>(&self, doing: &'static str, endpoint: Endpoint, ids: &[I]) -> Call {
        Call::with_body(doing, endpoint, encode_ids(ids))
    }

    async fn bits(&self, call: &Call, count: usize) -> Result<Vec<bool>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let bytes = self.exchange(call, || Whole::new(count.div_ceil(8))).await?;
        let bitmap = Bitmap::decode(&bytes, count).map_err(|error| self.nonsense(call.doing, error.to_string()))?;
        Ok(bitmap.iter().collect())
    }

    async fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        self.json_of(call, MAX_JSON_BYTES).await
    }

    async fn long_json<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        self.json_of(call, MAX_LIST_BYTES).await
    }

    async fn json_of<T: DeserializeOwned>(&self, call: Call, most: usize) -> Result<T> {
        let bytes = self.exchange(&call, || Whole::new(most)).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            let detail = format!("{error}; is this the URL of a firnd?");
            self.nonsense(call.doing, detail)
        })
    }
}

/// Reads the answer to a commit.
struct Lines {
    reader: AnswerReader,
    answers: Vec<PathAnswer>,
}

impl Reader for Lines {
    type Answer = Vec<PathAnswer>;

    fn take(&mut self, piece: &[u8]) -> Result<(), String> {
        self.answers.extend(self.reader.push(piece).map_err(|error| error.to_string())?);
        Ok(())
    }

    fn end(self) -> Result<Option<Vec<PathAnswer>>, String> {
        let is_whole = self.reader.unanswered().next().is_none();
        Ok(is_whole.then_some(self.answers))
    }
}
