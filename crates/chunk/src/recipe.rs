//! What rebuilds one input, and its canonical encoding.
//!
//! ```text
//! offset  bytes  field
//!      0      4  magic "FRCP"
//!      4      1  version, 1
//!      5      1  input: 0 NAR, 1 bytes
//!      6      2  chunker: version of its rules
//!      8     12  chunker: min, avg, max, 4 bytes each
//!     20      8  length of the input
//!     28      4  n, number of chunks
//!     32   32 n  chunk ids
//!      …      …  n lengths of chunks, as varints
//!      …      …  patches up to the end: a pair of varints each (see `patches`)
//! ```
//!
//! Little endian. Ids stand together since they do not compress, and what follows does. A checksum would be
//! redundant: a recipe is named by the hash of these bytes.

use crate::{ChunkId, ChunkerId, Error, Input, MAX_CHUNKS, Patches, RecipeId, Result, varint};

pub(crate) const MAGIC: [u8; 4] = *b"FRCP";
const VERSION: u8 = 1;
pub(crate) const HEADER_BYTES: usize = 32;
pub(crate) const ID_BYTES: usize = 32;

/// A chunk of a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkRef {
    /// Its name.
    pub id: ChunkId,
    /// Its length in bytes.
    pub len: u32,
}

/// Ordered chunks and patch positions that rebuild one input but for its store hashes.
///
/// [`crate::Chunker`] and [`Recipe::decode`] return only recipes that hold together: the chunks' lengths add up to
/// `length`, and all patches lie within it. Whoever builds one otherwise must see to that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// How the input was read.
    pub input: Input,
    /// How it was cut.
    pub chunker: ChunkerId,
    /// Length of the input in bytes.
    pub length: u64,
    /// The chunks, whose bytes in this order are the normalised input.
    pub chunks: Vec<ChunkRef>,
    /// Where store hashes go.
    pub patches: Patches,
}

impl Recipe {
    /// Returns the recipe's name: BLAKE3 of [`Recipe::encode`].
    #[must_use]
    pub fn id(&self) -> RecipeId {
        RecipeId::of(&self.encode())
    }

    /// Returns the canonical encoding: under 64 MiB, about 35 bytes a chunk and 3 a patch.
    ///
    /// # Panics
    /// If there are more than [`MAX_CHUNKS`] chunks, which neither a chunker nor [`Recipe::decode`] returns.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.chunks.len() <= MAX_CHUNKS, "a recipe has at most {MAX_CHUNKS} chunks");
        let count = u32::try_from(self.chunks.len()).expect("MAX_CHUNKS fits");
        let lengths_bytes = self.chunks.len() * 3;
        let patches = self.patches.bytes();
        let mut out = Vec::with_capacity(HEADER_BYTES + self.chunks.len() * ID_BYTES + lengths_bytes + patches.len());
        out.extend(MAGIC);
        out.push(VERSION);
        out.push(match self.input {
            Input::Nar => 0,
            Input::Bytes => 1,
        });
        out.extend(self.chunker.version.to_le_bytes());
        out.extend(self.chunker.min.to_le_bytes());
        out.extend(self.chunker.avg.to_le_bytes());
        out.extend(self.chunker.max.to_le_bytes());
        out.extend(self.length.to_le_bytes());
        out.extend(count.to_le_bytes());
        for chunk in &self.chunks {
            out.extend(chunk.id.0);
        }
        for chunk in &self.chunks {
            varint::write(&mut out, u64::from(chunk.len));
        }
        out.extend(patches);
        out
    }

    /// Reads an encoding; anything but exactly what [`Recipe::encode`] writes is an error, [`Error::TooNew`] for a version
    /// to come.
    ///
    /// Takes memory in proportion to the bytes given, whatever they claim.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader { bytes, at: 0 };
        if reader.array()? != MAGIC {
            return Err(Error::Corrupt { what: "not a recipe's magic", at: 0 });
        }
        match reader.array()? {
            [VERSION] => {}
            [0] => return Err(Error::Corrupt { what: "a version that there never was", at: 4 }),
            [found] => return Err(Error::TooNew { found, known: VERSION }),
        }
        let input = match reader.array()? {
            [0] => Input::Nar,
            [1] => Input::Bytes,
            _ => return Err(Error::Corrupt { what: "an unknown kind of input", at: 5 }),
        };
        let chunker = reader.chunker()?;
        let length = u64::from_le_bytes(reader.array()?);
        let chunks = reader.chunks(length, chunker.max)?;
        let patches = Patches::decode(reader.rest(), length, reader.at)?;
        Ok(Self { input, chunker, length, chunks, patches })
    }
}

/// Bytes being decoded.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn fail(&self, what: &'static str) -> Error {
        Error::Corrupt { what, at: self.at }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let array = *self.rest().first_chunk().ok_or(self.fail("an early end"))?;
        self.at += N;
        Ok(array)
    }

    fn chunker(&mut self) -> Result<ChunkerId> {
        let at = self.at;
        let version = u16::from_le_bytes(self.array()?);
        let min = u32::from_le_bytes(self.array()?);
        let avg = u32::from_le_bytes(self.array()?);
        let max = u32::from_le_bytes(self.array()?);
        let chunker = ChunkerId { version, min, avg, max };
        if !chunker.is_sane() {
            return Err(Error::Corrupt { what: "impossible chunk sizes", at });
        }
        Ok(chunker)
    }

    /// Reads the number of chunks, their ids and their lengths, which add up to `length`.
    fn chunks(&mut self, length: u64, max: u32) -> Result<Vec<ChunkRef>> {
        let fail = self.fail("too many chunks");
        let count = usize::try_from(u32::from_le_bytes(self.array()?)).map_err(|_| self.fail("too many chunks"))?;
        // Each takes its id and at least one byte of length: nothing is allocated for more than could be there.
        if count > MAX_CHUNKS || count > self.rest().len() / (ID_BYTES + 1) {
            return Err(fail);
        }
        let (ids, rest) = self.rest().split_at(count * ID_BYTES);
        self.at = self.bytes.len() - rest.len();
        let (ids, _) = ids.as_chunks();
        let mut left = length;
        let mut chunks = Vec::with_capacity(count);
        for id in ids {
            let fail = self.fail("a wrong length of a chunk");
            let Some((len, len_bytes)) = varint::read(self.rest()) else { return Err(fail) };
            let Some(len) = u32::try_from(len).ok().filter(|len| (1..=max).contains(len)) else { return Err(fail) };
            let Some(after) = left.checked_sub(u64::from(len)) else { return Err(fail) };
            left = after;
            self.at += len_bytes;
            chunks.push(ChunkRef { id: ChunkId(*id), len });
        }
        if left != 0 {
            return Err(self.fail("chunks that are shorter than the input"));
        }
        Ok(chunks)
    }
}
