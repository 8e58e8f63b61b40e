//! An lzip encoder around raw LZMA: liblzma reads the format but does not write it.
//!
//! A member is `LZIP`, the version 1, the dictionary's size, LZMA with its end marker, then the CRC-32 and the length of the
//! uncompressed bytes and the length of the whole member, little endian.

use std::io::{self, Write};

use liblzma::stream::{Filters, LzmaOptions, Stream};
use liblzma::write::XzEncoder;

/// The dictionary, as a power of two; the header holds it in five bits.
const DICTIONARY_LOG: u8 = 20;
const MAGIC: &[u8; 5] = b"LZIP\x01";

pub(super) struct Encoder {
    raw: XzEncoder<Vec<u8>>,
    crc: flate2::Crc,
    raw_bytes: u64,
    member_bytes: u64,
    ready: Vec<u8>,
}

impl Encoder {
    pub(super) fn new(preset: u32) -> io::Result<Self> {
        let mut options = LzmaOptions::new_preset(preset)?;
        options.dict_size(1 << DICTIONARY_LOG).literal_context_bits(3).literal_position_bits(0).position_bits(2);
        let mut filters = Filters::new();
        filters.lzma1(&options);
        let raw = XzEncoder::new_stream(Vec::new(), Stream::new_raw_encoder(&filters)?);
        let mut ready = MAGIC.to_vec();
        ready.push(DICTIONARY_LOG);
        Ok(Self { raw, crc: flate2::Crc::new(), raw_bytes: 0, member_bytes: ready.len() as u64, ready })
    }

    pub(super) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.crc.update(data);
        self.raw_bytes += data.len() as u64;
        self.raw.write_all(data)
    }

    pub(super) fn ready(&mut self) -> &mut Vec<u8> {
        let compressed = self.raw.get_mut();
        self.member_bytes += compressed.len() as u64;
        self.ready.append(compressed);
        &mut self.ready
    }

    pub(super) fn finish(mut self) -> io::Result<Vec<u8>> {
        self.ready();
        let Self { raw, crc, raw_bytes, mut member_bytes, mut ready } = self;
        let last = raw.finish()?;
        member_bytes += last.len() as u64 + 20;
        ready.extend_from_slice(&last);
        ready.extend_from_slice(&crc.sum().to_le_bytes());
        ready.extend_from_slice(&raw_bytes.to_le_bytes());
        ready.extend_from_slice(&member_bytes.to_le_bytes());
        Ok(ready)
    }
}
