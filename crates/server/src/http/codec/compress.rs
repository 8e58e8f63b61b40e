//! LZW as the Unix program `compress` writes it (`.Z`): no crate reads it, and Nix can be told to use it.
//!
//! After `1f 9d` and a byte with the largest code width (9 to 16) and the block-mode flag come codes, least significant bit
//! first, beginning with 9 bits. Codes are written in groups of eight; when the width changes or the table is cleared, the rest of
//! the group is padding. In block mode code 256 clears the table.

use std::io::{self, BufRead, Read};

const MAGIC: [u8; 2] = [0x1f, 0x9d];
const BLOCK_MODE: u8 = 0x80;
const WIDTH_MASK: u8 = 0x1f;
const MIN_WIDTH: u32 = 9;
const MAX_WIDTH: u32 = 16;
const CLEAR: u16 = 256;
const GROUP: u32 = 8;

/// Reads a `.Z` stream.
pub(super) struct Decoder<R> {
    source: R,
    state: Option<State>,
}

/// The table and where we are in the stream.
struct State {
    max_width: u32,
    block_mode: bool,
    width: u32,
    bits: u64,
    bit_count: u32,
    codes_in_group: u32,
    /// What each code above the first ones extends, and by which byte.
    prefix: Vec<u16>,
    suffix: Vec<u8>,
    first_free: usize,
    free: usize,
    previous: Option<u16>,
    first_byte: u8,
    /// Bytes of the current code, last one first.
    pending: Vec<u8>,
}

fn corrupt(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<R: BufRead> Decoder<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, state: None }
    }
}

impl State {
    fn begin(source: &mut impl Read) -> io::Result<Self> {
        let mut header = [0; 3];
        source.read_exact(&mut header)?;
        let [a, b, flags] = header;
        let max_width = u32::from(flags & WIDTH_MASK);
        if [a, b] != MAGIC || flags & !(WIDTH_MASK | BLOCK_MODE) != 0 || !(MIN_WIDTH..=MAX_WIDTH).contains(&max_width) {
            return Err(corrupt("not a compress stream"));
        }
        let block_mode = flags & BLOCK_MODE != 0;
        let first_free = if block_mode { 257 } else { 256 };
        Ok(Self {
            max_width,
            block_mode,
            width: MIN_WIDTH,
            bits: 0,
            bit_count: 0,
            codes_in_group: 0,
            prefix: vec![0; 1 << max_width],
            suffix: vec![0; 1 << max_width],
            first_free,
            free: first_free,
            previous: None,
            first_byte: 0,
            pending: Vec::new(),
        })
    }

    /// Reads one code; `None` at the end of the stream, where fewer bits than a code's may be left over.
    fn code(&mut self, source: &mut impl BufRead) -> io::Result<Option<u16>> {
        while self.bit_count < self.width {
            let Some(&byte) = source.fill_buf()?.first() else { return Ok(None) };
            source.consume(1);
            self.bits |= u64::from(byte) << self.bit_count;
            self.bit_count += 8;
        }
        let code = self.bits & ((1 << self.width) - 1);
        self.bits >>= self.width;
        self.bit_count -= self.width;
        self.codes_in_group = (self.codes_in_group + 1) % GROUP;
        Ok(Some(code as u16))
    }

    /// Skips what pads the group of codes, then goes on with another width.
    fn set_width(&mut self, width: u32, source: &mut impl BufRead) -> io::Result<()> {
        while self.codes_in_group != 0 && self.code(source)?.is_some() {}
        (self.width, self.bits, self.bit_count, self.codes_in_group) = (width, 0, 0, 0);
        Ok(())
    }

    /// Decodes one code into `pending`; returns whether there was one.
    fn step(&mut self, source: &mut impl BufRead) -> io::Result<bool> {
        if self.free == 1 << self.width && self.width < self.max_width {
            self.set_width(self.width + 1, source)?;
        }
        let Some(code) = self.code(source)? else { return Ok(false) };
        if self.block_mode && code == CLEAR {
            self.set_width(MIN_WIDTH, source)?;
            (self.free, self.previous) = (self.first_free, None);
            return Ok(true);
        }
        let Some(previous) = self.previous else {
            let byte = u8::try_from(code).map_err(|_| corrupt("a compress stream begins with an unknown code"))?;
            (self.first_byte, self.previous) = (byte, Some(code));
            self.pending.push(byte);
            return Ok(true);
        };
        let mut at = usize::from(code);
        if at > self.free || (at == self.free && self.free == self.prefix.len()) {
            return Err(corrupt("a compress stream uses an unknown code"));
        }
        if at == self.free {
            self.pending.push(self.first_byte);
            at = usize::from(previous);
        }
        // Every entry extends an older one, so this ends.
        while at >= self.first_free {
            self.pending.push(self.suffix[at]);
            at = usize::from(self.prefix[at]);
        }
        self.first_byte = u8::try_from(at).map_err(|_| corrupt("a compress stream uses an unknown code"))?;
        self.pending.push(self.first_byte);
        if self.free < self.prefix.len() {
            self.prefix[self.free] = previous;
            self.suffix[self.free] = self.first_byte;
            self.free += 1;
        }
        self.previous = Some(code);
        Ok(true)
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let state = match &mut self.state {
            Some(state) => state,
            None => self.state.insert(State::begin(&mut self.source)?),
        };
        let mut read = 0;
        while let Some(place) = buffer.get_mut(read) {
            match state.pending.pop() {
                Some(byte) => {
                    *place = byte;
                    read += 1;
                }
                None => {
                    if !state.step(&mut self.source)? {
                        break;
                    }
                }
            }
        }
        Ok(read)
    }
}

/// The table of an [`Encoder`]: open addressing over (code, next byte), a quarter full at most.
const SLOTS: usize = 1 << (MAX_WIDTH + 2);

/// Writes a `.Z` stream; the table is cleared whenever it is full.
pub(super) struct Encoder {
    ready: Vec<u8>,
    bits: u64,
    bit_count: u32,
    codes_in_group: u32,
    width: u32,
    free: u32,
    current: Option<u16>,
    /// `code << 8 | byte` and the code for it; code 0 marks a free slot (it is never a table entry).
    slots: Vec<(u32, u16)>,
}

impl Default for Encoder {
    fn default() -> Self {
        let flags = BLOCK_MODE | MAX_WIDTH as u8;
        Self {
            ready: vec![MAGIC[0], MAGIC[1], flags],
            bits: 0,
            bit_count: 0,
            codes_in_group: 0,
            width: MIN_WIDTH,
            free: 257,
            current: None,
            slots: vec![(0, 0); SLOTS],
        }
    }
}

impl Encoder {
    pub(super) fn write(&mut self, data: &[u8]) {
        for &byte in data {
            let Some(current) = self.current else {
                self.current = Some(u16::from(byte));
                continue;
            };
            let key = u32::from(current) << 8 | u32::from(byte);
            let slot = self.slot(key);
            let (found, code) = self.slots[slot];
            if code != 0 && found == key {
                self.current = Some(code);
                continue;
            }
            self.emit(current);
            self.current = Some(u16::from(byte));
            if self.free < 1 << MAX_WIDTH {
                self.slots[slot] = (key, self.free as u16);
                self.free += 1;
                // The decoder adds each entry one code later than we do.
                if self.free == (1 << self.width) + 1 && self.width < MAX_WIDTH {
                    self.pad();
                    self.width += 1;
                }
            } else {
                self.emit(CLEAR);
                self.pad();
                self.slots.fill((0, 0));
                (self.width, self.free) = (MIN_WIDTH, 257);
            }
        }
    }

    pub(super) fn ready(&mut self) -> &mut Vec<u8> {
        &mut self.ready
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        if let Some(current) = self.current {
            self.emit(current);
        }
        if self.bit_count > 0 {
            self.ready.push(self.bits as u8);
        }
        self.ready
    }

    fn slot(&self, key: u32) -> usize {
        let mut slot = (key.wrapping_mul(0x9e37_79b1) >> (32 - (MAX_WIDTH + 2))) as usize;
        loop {
            match self.slots[slot] {
                (found, code) if code != 0 && found != key => slot = (slot + 1) % SLOTS,
                _ => return slot,
            }
        }
    }

    fn emit(&mut self, code: u16) {
        self.bits |= u64::from(code) << self.bit_count;
        self.bit_count += self.width;
        while self.bit_count >= 8 {
            self.ready.push(self.bits as u8);
            self.bits >>= 8;
            self.bit_count -= 8;
        }
        self.codes_in_group = (self.codes_in_group + 1) % GROUP;
    }

    /// Fills the group of codes with zeros.
    fn pad(&mut self) {
        while self.codes_in_group != 0 {
            self.emit(0);
        }
    }
}
