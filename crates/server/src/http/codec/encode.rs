use std::io::{self, Write};
use std::mem;

use liblzma::stream::{Check, LzmaOptions, Stream};
use liblzma::write::XzEncoder;

use super::{Codec, compress, lzip};

/// Files are encoded anew each time somebody asks for an uploader's own name, so the quickest sensible levels are taken.
const XZ_PRESET: u32 = 1;
const ZSTD_LEVEL: i32 = 3;
const BROTLI_QUALITY: u32 = 3;
const BROTLI_WINDOW_LOG: u32 = 20;
const BROTLI_BUFFER_BYTES: usize = 64 << 10;

/// Compresses a stream; what is ready is taken out as it comes.
pub struct Encoder(Inner);

enum Inner {
    Identity(Vec<u8>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Lzma(XzEncoder<Vec<u8>>),
    Lzip(lzip::Encoder),
    Bzip2(bzip2::write::BzEncoder<Vec<u8>>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Lz4(Box<lz4_flex::frame::FrameEncoder<Vec<u8>>>),
    Compress(Box<compress::Encoder>),
}

impl Encoder {
    /// Begins a stream.
    pub fn new(codec: Codec) -> io::Result<Self> {
        let sink = Vec::new();
        Ok(Self(match codec {
            Codec::Identity => Inner::Identity(sink),
            Codec::Zstd => Inner::Zstd(zstd::stream::write::Encoder::new(sink, ZSTD_LEVEL)?),
            Codec::Xz => {
                let stream = Stream::new_easy_encoder(XZ_PRESET, Check::Crc64)?;
                Inner::Lzma(XzEncoder::new_stream(sink, stream))
            }
            Codec::Lzma => {
                let stream = Stream::new_lzma_encoder(&LzmaOptions::new_preset(XZ_PRESET)?)?;
                Inner::Lzma(XzEncoder::new_stream(sink, stream))
            }
            Codec::Lzip => Inner::Lzip(lzip::Encoder::new(XZ_PRESET)?),
            Codec::Bzip2 => Inner::Bzip2(bzip2::write::BzEncoder::new(sink, bzip2::Compression::fast())),
            Codec::Gzip => Inner::Gzip(flate2::write::GzEncoder::new(sink, flate2::Compression::fast())),
            Codec::Brotli => {
                let writer =
                    brotli::CompressorWriter::new(sink, BROTLI_BUFFER_BYTES, BROTLI_QUALITY, BROTLI_WINDOW_LOG);
                Inner::Brotli(Box::new(writer))
            }
            Codec::Lz4 => Inner::Lz4(Box::new(lz4_flex::frame::FrameEncoder::new(sink))),
            Codec::Compress => Inner::Compress(Box::default()),
        }))
    }

    /// Takes more of the uncompressed bytes.
    pub fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match &mut self.0 {
            Inner::Identity(sink) => sink.write_all(data),
            Inner::Zstd(encoder) => encoder.write_all(data),
            Inner::Lzma(encoder) => encoder.write_all(data),
            Inner::Lzip(encoder) => encoder.write(data),
            Inner::Bzip2(encoder) => encoder.write_all(data),
            Inner::Gzip(encoder) => encoder.write_all(data),
            Inner::Brotli(encoder) => encoder.write_all(data),
            Inner::Lz4(encoder) => encoder.write_all(data),
            Inner::Compress(encoder) => {
                encoder.write(data);
                Ok(())
            }
        }
    }

    /// Returns the compressed bytes that are ready and were not taken before; often none.
    pub fn take(&mut self) -> Vec<u8> {
        mem::take(match &mut self.0 {
            Inner::Identity(sink) => sink,
            Inner::Zstd(encoder) => encoder.get_mut(),
            Inner::Lzma(encoder) => encoder.get_mut(),
            Inner::Lzip(encoder) => encoder.ready(),
            Inner::Bzip2(encoder) => encoder.get_mut(),
            Inner::Gzip(encoder) => encoder.get_mut(),
            Inner::Brotli(encoder) => encoder.get_mut(),
            Inner::Lz4(encoder) => encoder.get_mut(),
            Inner::Compress(encoder) => encoder.ready(),
        })
    }

    /// Ends the stream and returns the rest of it.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        match self.0 {
            Inner::Identity(sink) => Ok(sink),
            Inner::Zstd(encoder) => encoder.finish(),
            Inner::Lzma(encoder) => encoder.finish(),
            Inner::Lzip(encoder) => encoder.finish(),
            Inner::Bzip2(encoder) => encoder.finish(),
            Inner::Gzip(encoder) => encoder.finish(),
            Inner::Brotli(encoder) => Ok(encoder.into_inner()),
            Inner::Lz4(encoder) => encoder.finish().map_err(io::Error::other),
            Inner::Compress(encoder) => Ok(encoder.finish()),
        }
    }
}
