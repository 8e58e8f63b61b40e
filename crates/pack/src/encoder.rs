//! Items to frames.

use std::fmt;
use std::io::Cursor;

use zstd::bulk::Compressor;
use zstd::zstd_safe::{CCtx, CParameter, SafeResult, get_error_name};

use crate::filter::Filters;
use crate::frame::{Header, check_shape, header_len};
use crate::layout::{ID_LEN, MAX_BASE_BYTES, MAX_BASES, MAX_FRAME_RAW, checksum, position, size};
use crate::{Chain, Codec, Error, Frame, FrameEntry, FrameKind, Item, Result};

/// Compresses runs of items to frames; keeps zstd's memory from one to the next.
pub struct FrameEncoder {
    zstd: Compressor<'static>,
    level: i32,
}

impl fmt::Debug for FrameEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameEncoder").field("level", &self.level).finish_non_exhaustive()
    }
}

/// Chunks whose bytes are known to whoever decompresses a frame.
#[derive(Debug, Clone, Copy)]
pub struct Bases<'a> {
    /// Their ids, in the order in which they make the prefix; 1 to [`MAX_BASES`].
    pub ids: &'a [[u8; ID_LEN]],
    /// Their bytes, one behind the other; at most [`MAX_BASE_BYTES`].
    pub data: &'a [u8],
}

/// The level from which on zstd's own tables hold all of bases and items.
const OWN_TABLES_LEVEL: i32 = 9;

/// How much zstd's tables may hold of bases and items, in bits of entries: those of level 3 are made for inputs of
/// their own, and forget the beginning of a prefix of a megabyte. On `rebuild` and `builders` it saves a third of the
/// bytes of delta frames; 20 bits save nothing more, and cost twice the time.
const DELTA_TABLE_LOG: u32 = 18;

/// How much the table of long matches holds of items without bases at level 3, in bits of entries: zstd's own 17 bits don't
/// stay in the cache beside the items. zstd takes 12 % less CPU then, for 0.3 % more bytes; 15 bits cost 1.4 % more.
const PLAIN_TABLE_LOG: u32 = 16;

impl FrameEncoder {
    /// Returns an encoder.
    ///
    /// # Errors
    /// [`Error::Zstd`] when there is no memory for zstd's context.
    pub fn new() -> Result<Self> {
        let level = zstd::DEFAULT_COMPRESSION_LEVEL;
        let mut zstd = Compressor::new(level).map_err(Error::Zstd)?;
        set_plain_level(&mut zstd, level)?;
        Ok(Self { zstd, level })
    }

    /// Compresses items that lie one behind the other in `data`, of the lengths `lens`, with their `ids`,
    /// at a zstd level.
    ///
    /// The ids are not checked against the items. Where zstd does not make the items smaller, they are
    /// stored as they are. The same input gives the same bytes with the same version of libzstd.
    ///
    /// # Errors
    /// [`Error::Invalid`] for more than [`MAX_FRAME_RAW`] bytes, no items or more than
    /// [`MAX_ITEMS`](crate::MAX_ITEMS), or
    /// when `data`, `lens` and `ids` do not agree; [`Error::Zstd`] for a level that zstd refuses.
    pub fn encode(
        &mut self,
        kind: FrameKind,
        data: &[u8],
        lens: &[u32],
        ids: &[[u8; 32]],
        level: i32,
    ) -> Result<Frame> {
        let raw_len = raw_len(data, lens, ids)?;
        self.set_level(level)?;
        let (bytes, codec) = self.compress(data, header_len(lens.len(), 0));
        Ok(finish(bytes, kind, codec, raw_len, lens, ids, Vec::new()))
    }

    /// Compresses chunks as [`encode`](Self::encode) does, after machine code and tables of programs among them were written
    /// in a way that compresses better; where there are none, or that makes them no smaller, this is [`encode`](Self::encode).
    ///
    /// Takes two copies of the chunks: a frame is filtered only if undoing that gave the same chunks again.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_filtered(&mut self, data: &[u8], lens: &[u32], ids: &[[u8; 32]], level: i32) -> Result<Frame> {
        let raw_len = raw_len(data, lens, ids)?;
        let filters = Filters::find(data);
        if !filters.is_empty()
            && let Some(filtered) = filters.apply(data)
        {
            self.set_level(level)?;
            let mut front = vec![0; header_len(lens.len(), 0)];
            let list = filters.encode();
            let limit = data.len().saturating_sub(list.len());
            front.extend(list);
            if let Some(bytes) = self.compress_behind(front, &filtered, limit) {
                return Ok(finish(bytes, FrameKind::Chunks, Codec::Filtered, raw_len, lens, ids, Vec::new()));
            }
        }
        self.encode(FrameKind::Chunks, data, lens, ids, level)
    }

    /// Compresses chunks as [`encode`](Self::encode) does, with the bytes of other chunks, its bases, as zstd's prefix;
    /// `None` when the payload would not be shorter than `limit` bytes.
    ///
    /// Whoever decompresses the frame needs the same bases. That they are what their ids say is not checked. The window
    /// spans bases and chunks.
    ///
    /// # Errors
    /// As [`encode`](Self::encode); [`Error::Invalid`] also for no bases, more than [`MAX_BASES`], or more than
    /// [`MAX_BASE_BYTES`] of them.
    pub fn encode_delta(
        &mut self,
        data: &[u8],
        lens: &[u32],
        ids: &[[u8; 32]],
        bases: &Bases<'_>,
        limit: usize,
        level: i32,
    ) -> Result<Option<Frame>> {
        let raw_len = raw_len(data, lens, ids)?;
        let (count, base_bytes) = (bases.ids.len(), bases.data.len());
        if !(1..=MAX_BASES).contains(&count) || !(1..=MAX_BASE_BYTES).contains(&base_bytes) {
            return Err(Error::Invalid(format!("{count} bases of {base_bytes} bytes were given")));
        }
        let head = header_len(lens.len(), count);
        let limit = limit.min(data.len());
        let Some(bytes) = compress_delta(data, bases.data, head, limit, level)? else { return Ok(None) };
        Ok(Some(finish(bytes, FrameKind::Chunks, Codec::Delta, raw_len, lens, ids, bases.ids.to_vec())))
    }

    /// Compresses records as [`encode`](Self::encode) does, with those before them in the pack where that is shorter.
    ///
    /// The frame may be read only at its place: behind the frames that the chain has seen.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_linked(
        &mut self,
        data: &[u8],
        lens: &[u32],
        ids: &[[u8; 32]],
        chain: &Chain,
        level: i32,
    ) -> Result<Frame> {
        let alone = self.encode(FrameKind::Record, data, lens, ids, level)?;
        let head = header_len(lens.len(), 0);
        let linked = match chain.prefix() {
            prefix if chain.has_room() && !prefix.is_empty() => {
                compress_delta(data, prefix, head, alone.bytes.len().saturating_sub(head), level.max(OWN_TABLES_LEVEL))?
            }
            _ => None,
        };
        let raw_len = alone.entry.raw_len;
        Ok(match linked {
            Some(bytes) => finish(bytes, FrameKind::Record, Codec::Linked, raw_len, lens, ids, Vec::new()),
            None => alone,
        })
    }

    fn set_level(&mut self, level: i32) -> Result<()> {
        if level != self.level {
            set_plain_level(&mut self.zstd, level)?;
            self.level = level;
        }
        Ok(())
    }

    /// Returns `head` zero bytes and the payload behind them.
    fn compress(&mut self, data: &[u8], head: usize) -> (Vec<u8>, Codec) {
        match self.compress_behind(vec![0; head], data, data.len()) {
            Some(bytes) => (bytes, Codec::Zstd),
            None => {
                let mut bytes = vec![0; head];
                bytes.extend_from_slice(data);
                (bytes, Codec::Raw)
            }
        }
    }

    /// Returns `front` and the compressed bytes behind it, or `None` if these are not shorter than `limit` bytes.
    fn compress_behind(&mut self, mut front: Vec<u8>, data: &[u8], limit: usize) -> Option<Vec<u8>> {
        // Room for the items and no more: zstd gives up where it would not gain.
        front.reserve_exact(limit);
        let start = front.len();
        let mut room = Cursor::new(&mut front);
        room.set_position(position(start));
        match self.zstd.compress_to_buffer(data, &mut room) {
            Ok(len) if len < limit => Some(front),
            // Whatever stopped zstd, the items themselves are a right payload.
            Ok(_) | Err(_) => None,
        }
    }
}

/// Bytes of room beyond its output that zstd may want to write it.
const SLACK_BYTES: usize = 1 << 10;

/// Writes the header before a payload, whose place for it is free, and returns the frame.
fn finish(
    mut bytes: Vec<u8>,
    kind: FrameKind,
    codec: Codec,
    raw_len: u32,
    lens: &[u32],
    ids: &[[u8; 32]],
    bases: Vec<[u8; ID_LEN]>,
) -> Frame {
    let head = header_len(lens.len(), bases.len());
    let payload = bytes.get(head..).unwrap_or_default();
    let payload_len = u32::try_from(payload.len()).expect("a payload is at most as long as the items");
    let payload_checksum = checksum(payload);
    let header = Header { kind, codec, raw_len, payload_len, payload_checksum, lens: lens.to_vec(), bases };
    bytes[..head].copy_from_slice(&header.encode());

    let items = ids.iter().zip(lens).map(|(&id, &len)| Item { id, len }).collect();
    let len = u32::try_from(bytes.len()).expect("header and payload are limited to less than 2^32");
    Frame { bytes, entry: FrameEntry { kind, codec, len, raw_len, items, bases: header.bases } }
}

/// Returns `head` zero bytes and the payload behind them, or `None` if that is not shorter than `limit` bytes.
fn compress_delta(data: &[u8], prefix: &[u8], head: usize, limit: usize, level: i32) -> Result<Option<Vec<u8>>> {
    // zstd borrows the prefix for as long as the context lives, so a context serves one frame.
    let mut zstd = CCtx::create();
    let window = (data.len() + prefix.len()).max(1 << 10).next_power_of_two().trailing_zeros();
    checked(zstd.set_parameter(CParameter::CompressionLevel(level)))?;
    checked(zstd.set_parameter(CParameter::WindowLog(window)))?;
    if level < OWN_TABLES_LEVEL {
        for table in [CParameter::HashLog(DELTA_TABLE_LOG), CParameter::ChainLog(DELTA_TABLE_LOG)] {
            checked(zstd.set_parameter(table))?;
        }
    }
    checked(zstd.ref_prefix(prefix))?;
    // Little more room than for what is wanted, so that zstd gives up where it would not gain.
    let mut bytes = Vec::with_capacity(head + limit + SLACK_BYTES);
    bytes.resize(head, 0);
    let mut room = Cursor::new(&mut bytes);
    room.set_position(position(head));
    match zstd.compress2(&mut room, data) {
        Ok(len) if len < limit => Ok(Some(bytes)),
        // It did not fit; whatever else stopped zstd, the chunks can be stored without bases.
        Ok(_) | Err(_) => Ok(None),
    }
}

fn set_plain_level(zstd: &mut Compressor<'_>, level: i32) -> Result<()> {
    zstd.set_parameter(CParameter::CompressionLevel(level)).map_err(Error::Zstd)?;
    // 0 is what zstd has for the level.
    let table = if level == zstd::DEFAULT_COMPRESSION_LEVEL { PLAIN_TABLE_LOG } else { 0 };
    zstd.set_parameter(CParameter::HashLog(table)).map_err(Error::Zstd)
}

fn checked(result: SafeResult) -> Result<usize> {
    result.map_err(|code| Error::Zstd(std::io::Error::other(get_error_name(code))))
}

/// Returns the length of all items, once data, lengths and ids agree.
fn raw_len(data: &[u8], lens: &[u32], ids: &[[u8; 32]]) -> Result<u32> {
    if lens.len() != ids.len() {
        return Err(Error::Invalid(format!("{} lengths and {} ids were given", lens.len(), ids.len())));
    }
    let raw_len = u32::try_from(data.len()).ok().filter(|&len| size(len) <= MAX_FRAME_RAW);
    let Some(raw_len) = raw_len else {
        return Err(Error::Invalid(format!("{} bytes of items, and the limit is {MAX_FRAME_RAW}", data.len())));
    };
    check_shape(Codec::Raw, raw_len, Some(raw_len), lens.iter().copied()).map_err(Error::Invalid)?;
    Ok(raw_len)
}
