//! A pack without footer: what a crash left of it.

use std::collections::HashMap;
use std::io;
use std::ops::Range;

use crate::footer::read_exactly;
use crate::frame::Fixed;
use crate::frame::Header;
use crate::layout::{
    FRAME_FIXED_LEN, Fields, MAX_BASE_BYTES, PACK_HEADER_LEN, PACK_MAGIC, PACK_VERSION, checksum, position,
};
use crate::search::{Search, is_torn};
use crate::{
    Chain, DecodedFrame, Error, Footer, FrameDecoder, FrameEntry, FrameHead, FrameKind, PackBuilder, PackId, Result,
    frame_bases,
};

/// Returns the bytes of a chunk, given its id, or `None` if it can't be had.
pub type ChunkSource<'a> = dyn FnMut(&[u8; 32]) -> io::Result<Option<Vec<u8>>> + 'a;

/// What is left of a torn pack.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// The pack with every frame of `frames`, ready for more frames or for its footer.
    pub builder: PackBuilder,
    /// Where the last whole frame ends, which is `builder.len()`: the object is to be cut here.
    pub valid_len: u64,
    /// The frames that the footer will name, with their positions, in the order in which they lie.
    pub frames: Vec<(u64, FrameEntry)>,
    /// Whole frames whose bases can't be had, so that nobody can tell which chunks they hold. Their bytes stay in the pack; the
    /// footer will not name them.
    pub baseless: Vec<Range<u64>>,
    /// Damaged frames, and bytes that are none, that lie before a whole one. Their bytes stay in the pack; the footer will
    /// not name them.
    pub lost: Vec<Range<u64>>,
}

/// Scans the frames of a pack that has no footer, decompresses each, and computes the ids of its items.
///
/// Before `durable_len` nothing but damage can be in the way: a frame whose header is right and whose payload is damaged is
/// skipped, and so is one that is linked to such a one. Where no frame header is, the header is damaged, and the next whole frame
/// is looked for, up to the object's end; frames behind it that are linked to some before are lost with it. So it is not, and
/// the pack ends, where a right header leads past the object's end.
/// At `durable_len` or behind it, the pack ends at the first frame that is not whole: there the crash (or the footer) was.
/// Bases are looked for in the pack itself, before a frame or behind it, then asked of `chunk`, which returns the bytes of a chunk
/// of another pack; perhaps more than once.
/// Damage is for the caller to judge: when `valid_len` is less than what was made durable, or `lost` is not empty, it was not the crash.
/// Reads the object once, a frame (at most about [`MAX_FRAME_RAW`](crate::MAX_FRAME_RAW)) at a time, and frames that hold
/// bases, or whose bases lie behind them, again; with damaged headers, at most ten times as much.
///
/// # Errors
/// [`Error::NoHeader`] when the object is shorter than a pack's header or the header is all zero: there was
/// never a frame. [`Error::Corrupt`] when the header is damaged. [`Error::Unsupported`] for a version, kind
/// or codec of a newer firn, so that what that wrote is not cut off. [`Error::Read`] when `read` or `chunk` fails.
pub fn recover<B: AsRef<[u8]>>(
    read: impl Fn(u64, usize) -> io::Result<B>,
    object_len: u64,
    durable_len: u64,
    chunk: &mut ChunkSource<'_>,
) -> Result<Recovered> {
    let id = read_header(&read, object_len)?;
    Scan::new(object_len, durable_len, chunk)?.run(&read, id, position(PACK_HEADER_LEN))
}

/// Scans, as [`recover`] does, what lies between the last frame that a footer lists and the footer; returns these frames
/// with those that it lists. Of these it reads only what holds bases. Of what the footer leaves out before others, it returns
/// the frames whose bases can be had by now.
///
/// # Errors
/// As [`recover`].
pub fn recover_behind<B: AsRef<[u8]>>(
    read: impl Fn(u64, usize) -> io::Result<B>,
    footer: &Footer,
    object_len: u64,
    chunk: &mut ChunkSource<'_>,
) -> Result<Recovered> {
    let last = footer.frames.last();
    let from = last.map_or(position(PACK_HEADER_LEN), |(offset, entry)| offset + u64::from(entry.len));
    let end = from + footer.unlisted_bytes(object_len);
    let mut scan = Scan::new(end, end, chunk)?;
    for (offset, entry) in &footer.frames {
        scan.bases.note(*offset, entry);
    }
    scan.frames.clone_from(&footer.frames);
    for gap in footer.gaps() {
        scan.look_in(&read, gap)?;
    }
    scan.run(&read, footer.id, from)
}

/// A scan on its way through a pack.
struct Scan<'a> {
    /// Where frames end at the latest.
    end: u64,
    durable_len: u64,
    decoder: FrameDecoder,
    bases: BaseSource<'a>,
    chain: Chain,
    search: Search,
    frames: Vec<(u64, FrameEntry)>,
    /// Where the last whole frame ends.
    whole_end: u64,
    /// Whole frames whose bases were not to be had yet.
    waiting: Vec<Range<u64>>,
    lost: Vec<Range<u64>>,
    /// What is lost if a whole frame follows.
    damaged: Vec<Range<u64>>,
}

impl<'a> Scan<'a> {
    fn new(end: u64, durable_len: u64, chunk: &'a mut ChunkSource<'a>) -> Result<Self> {
        Ok(Self {
            end,
            durable_len,
            decoder: FrameDecoder::new()?,
            bases: BaseSource { plain: HashMap::new(), last: None, chunk },
            chain: Chain::default(),
            search: Search::new(end),
            frames: Vec::new(),
            whole_end: 0,
            waiting: Vec::new(),
            lost: Vec::new(),
            damaged: Vec::new(),
        })
    }

    fn run<B: AsRef<[u8]>>(
        mut self,
        read: &impl Fn(u64, usize) -> io::Result<B>,
        id: PackId,
        from: u64,
    ) -> Result<Recovered> {
        self.whole_end = from;
        let mut offset = from;
        loop {
            let next = match read_frame(read, offset, self.end)? {
                Some(bytes) => self.take(read, offset, bytes.as_ref())?,
                None => self.skip(read, offset)?,
            };
            match next {
                Some(next) => offset = next,
                None => break,
            }
        }
        let baseless = self.settle(read)?;
        let (mut builder, _) = PackBuilder::new(id);
        self.frames.sort_by_key(|(offset, _)| *offset);
        for (offset, entry) in &self.frames {
            builder.push_at(*offset, entry);
        }
        builder.skip_to(self.whole_end);
        self.lost.sort_by_key(|lost| lost.start);
        Ok(Recovered { valid_len: builder.len(), builder, frames: self.frames, baseless, lost: self.lost })
    }

    /// Lists the frame at an offset if it is whole, and returns where it ends, if the pack does not end there.
    fn take<B: AsRef<[u8]>>(
        &mut self,
        read: &impl Fn(u64, usize) -> io::Result<B>,
        offset: u64,
        bytes: &[u8],
    ) -> Result<Option<u64>> {
        let end = offset + position(bytes.len());
        let head = FrameHead::read(bytes)?;
        let prefix = self.bases.prefix(read, &mut self.decoder, bytes)?;
        let prefix = if head.bases == 0 { self.chain.prefix_of(head.codec) } else { &prefix };
        let decoded = self.decoder.decode_delta(bytes, prefix);
        self.chain.pass(head.kind, head.codec, decoded.as_ref().ok().map(|frame| frame.data.as_slice()));
        match decoded {
            Ok(frame) => {
                self.pass_whole(end);
                let entry = FrameEntry::of(bytes, &frame)?;
                self.bases.note(offset, &entry);
                self.frames.push((offset, entry));
            }
            Err(Error::Corrupt { .. } | Error::NeedsBases) if self.wants_bases(bytes) => {
                self.pass_whole(end);
                self.waiting.push(offset..end);
            }
            Err(Error::Corrupt { .. }) if offset >= self.durable_len => return Ok(None),
            Err(Error::Corrupt { .. } | Error::NeedsBases) => self.damaged.push(offset..end),
            Err(error) => return Err(error),
        }
        Ok(Some(end))
    }

    /// Returns whether a frame lacks nothing but bases: the checksum of its payload is right.
    fn wants_bases(&mut self, bytes: &[u8]) -> bool {
        let has_bases = frame_bases(bytes).is_ok_and(|bases| !bases.is_empty());
        has_bases && matches!(self.decoder.decode(bytes), Err(Error::NeedsBases))
    }

    fn pass_whole(&mut self, end: u64) {
        self.lost.append(&mut self.damaged);
        self.whole_end = end;
    }

    /// Returns where the scan goes on behind a place where no whole frame begins, if it does.
    fn skip<B: AsRef<[u8]>>(
        &mut self,
        read: &impl Fn(u64, usize) -> io::Result<B>,
        offset: u64,
    ) -> Result<Option<u64>> {
        if offset >= self.durable_len.min(self.end) || is_torn(read, offset, self.end)? {
            return Ok(None);
        }
        let next = self.search.next(read, offset, self.end)?;
        if let Some(next) = next {
            // What was there may have been records.
            self.chain.tear();
            self.damaged.push(offset..next);
        }
        Ok(next)
    }

    /// Looks through what a footer leaves out before frames that it lists. Frames that only wanted their bases are tried again; what
    /// looks like a frame elsewhere in a gap may be some content of a damaged one.
    fn look_in<B: AsRef<[u8]>>(&mut self, read: &impl Fn(u64, usize) -> io::Result<B>, gap: Range<u64>) -> Result<()> {
        let mut offset = gap.start;
        while let Some(bytes) = read_frame(read, offset, gap.end)? {
            let bytes = bytes.as_ref();
            let frame = offset..offset + position(bytes.len());
            offset = frame.end;
            if self.wants_bases(bytes) { &mut self.waiting } else { &mut self.lost }.push(frame);
        }
        if offset < gap.end {
            self.lost.push(offset..gap.end);
        }
        Ok(())
    }

    /// Lists the frames whose bases lie behind them, and returns those whose bases can't be had.
    fn settle<B: AsRef<[u8]>>(&mut self, read: &impl Fn(u64, usize) -> io::Result<B>) -> Result<Vec<Range<u64>>> {
        let mut baseless = Vec::new();
        for frame in std::mem::take(&mut self.waiting) {
            let bytes = read_exactly(read, frame.start, frame.end - frame.start)?;
            let prefix = self.bases.prefix(read, &mut self.decoder, bytes.as_ref())?;
            match self.decoder.decode_delta(bytes.as_ref(), &prefix) {
                Ok(decoded) => self.frames.push((frame.start, FrameEntry::of(bytes.as_ref(), &decoded)?)),
                Err(Error::NeedsBases) => baseless.push(frame),
                Err(Error::Corrupt { .. }) => self.lost.push(frame),
                Err(error) => return Err(error),
            }
        }
        Ok(baseless)
    }
}

/// Where the bases of frames are had from.
struct BaseSource<'a> {
    /// The chunks of the pack's frames without bases: the frame's offset and length, and the chunk's number in it.
    plain: HashMap<[u8; 32], (u64, u32, usize)>,
    /// The frame that held the last base: the next one is mostly in the same.
    last: Option<(u64, DecodedFrame)>,
    chunk: &'a mut ChunkSource<'a>,
}

impl BaseSource<'_> {
    fn note(&mut self, offset: u64, entry: &FrameEntry) {
        if entry.kind == FrameKind::Chunks && entry.bases.is_empty() {
            let items = entry.items.iter().enumerate();
            self.plain.extend(items.map(|(index, item)| (item.id, (offset, entry.len, index))));
        }
    }

    /// Returns the bases of a frame, one behind the other; nothing if it has none or one of them can't be had.
    fn prefix<B: AsRef<[u8]>>(
        &mut self,
        read: &impl Fn(u64, usize) -> io::Result<B>,
        decoder: &mut FrameDecoder,
        frame: &[u8],
    ) -> Result<Vec<u8>> {
        let mut prefix = Vec::new();
        for id in frame_bases(frame)? {
            let base = match self.plain.get(&id).copied() {
                Some((offset, len, index)) => match self.here(read, decoder, offset, len) {
                    Ok(frame) => frame.item(index).map(<[u8]>::to_vec),
                    // A footer said that it lies there.
                    Err(Error::Corrupt { .. }) => None,
                    Err(error) => return Err(error),
                },
                None => (self.chunk)(&id).map_err(|source| Error::Read { offset: 0, len: 0, source })?,
            };
            match base.filter(|base| prefix.len() + base.len() <= MAX_BASE_BYTES) {
                Some(base) => prefix.extend_from_slice(&base),
                None => return Ok(Vec::new()),
            }
        }
        Ok(prefix)
    }

    /// Decodes a frame of this pack again.
    fn here<B: AsRef<[u8]>>(
        &mut self,
        read: &impl Fn(u64, usize) -> io::Result<B>,
        decoder: &mut FrameDecoder,
        offset: u64,
        len: u32,
    ) -> Result<&DecodedFrame> {
        let last = match self.last.take().filter(|(at, _)| *at == offset) {
            Some(last) => last,
            None => (offset, decoder.decode(read_exactly(read, offset, len.into())?.as_ref())?),
        };
        Ok(&self.last.insert(last).1)
    }
}

/// Reads the header of the pack that an object of `object_len` bytes holds, and returns the id that it names.
///
/// # Errors
/// As [`recover`].
pub fn read_header<B: AsRef<[u8]>>(read: &impl Fn(u64, usize) -> io::Result<B>, object_len: u64) -> Result<PackId> {
    const WHAT: &str = "pack's header";
    if object_len < position(PACK_HEADER_LEN) {
        return Err(Error::NoHeader);
    }
    let header = read_exactly(read, 0, position(PACK_HEADER_LEN))?;
    let header = header.as_ref();
    if header.iter().all(|&byte| byte == 0) {
        return Err(Error::NoHeader);
    }
    let mut fields = Fields(header);
    let mut parse = || {
        let summed = fields.0.get(..PACK_HEADER_LEN - 8)?;
        let (magic, version, reserved) = (fields.array()?, fields.u16()?, fields.array()?);
        let id = PackId(fields.array()?);
        let good = magic == PACK_MAGIC && fields.u64()? == checksum(summed) && reserved == [0; 6];
        good.then_some((id, version))
    };
    let (id, version) = parse().ok_or_else(|| Error::corrupt(WHAT, "its magic or its checksum is wrong"))?;
    if version == PACK_VERSION {
        Ok(id)
    } else {
        Err(Error::Unsupported { what: WHAT, field: "version", found: version.into() })
    }
}

/// Returns the bytes of the frame at `offset`, or `None` if there is no whole header before `object_len` or it leads past
/// that. Its header is right then, and its payload may not be.
///
/// # Errors
/// [`Error::Unsupported`] for a kind or codec of a newer firn, [`Error::Read`] when `read` fails.
pub fn read_frame<B: AsRef<[u8]>>(
    read: &impl Fn(u64, usize) -> io::Result<B>,
    offset: u64,
    object_len: u64,
) -> Result<Option<B>> {
    let left = object_len.saturating_sub(offset);
    if left < position(FRAME_FIXED_LEN) {
        return Ok(None);
    }
    let fixed = read_exactly(read, offset, position(FRAME_FIXED_LEN))?;
    let Ok(fixed) = Fixed::parse(fixed.as_ref()) else {
        return Ok(None);
    };
    if left < u64::from(fixed.frame_len()) {
        return Ok(None);
    }
    let frame = read_exactly(read, offset, fixed.frame_len().into())?;
    // The lengths may only be trusted, and the next frame looked for, when the whole header is right.
    match Header::parse(frame.as_ref()) {
        Ok(_) => Ok(Some(frame)),
        Err(Error::Corrupt { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
