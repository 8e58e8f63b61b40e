use std::io::{self, BufRead, Read};

use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

use super::{Codec, MAX_DECODER_MEMORY, MAX_ZSTD_WINDOW_LOG, compress};

/// How much Brotli's decoder reads at a time.
const BROTLI_BUFFER_BYTES: usize = 64 << 10;

/// Returns a reader of what `source` holds compressed.
///
/// Errors of `source` come through as they are. A stream that is cut short, damaged, or wants too much memory is an error,
/// with one exception: LZ4 cut exactly between two blocks reads as if it ended there.
pub fn decoder<'a, R: BufRead + Send + 'a>(codec: Codec, source: R) -> io::Result<Box<dyn Read + Send + 'a>> {
    let lzma = |stream: Result<Stream, liblzma::stream::Error>| stream.map_err(io::Error::from);
    Ok(match codec {
        Codec::Identity => Box::new(source),
        Codec::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
            decoder.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        Codec::Xz => {
            let stream = lzma(Stream::new_stream_decoder(MAX_DECODER_MEMORY, CONCATENATED))?;
            Box::new(XzDecoder::new_stream(source, stream))
        }
        Codec::Lzip => {
            let stream = lzma(Stream::new_lzip_decoder(MAX_DECODER_MEMORY, CONCATENATED))?;
            Box::new(XzDecoder::new_stream(source, stream))
        }
        Codec::Lzma => {
            let stream = lzma(Stream::new_lzma_decoder(MAX_DECODER_MEMORY))?;
            Box::new(XzDecoder::new_stream(source, stream))
        }
        Codec::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(source)),
        Codec::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        Codec::Brotli => Box::new(brotli::Decompressor::new(source, BROTLI_BUFFER_BYTES)),
        Codec::Lz4 => Box::new(Lz4Frames(lz4_flex::frame::FrameDecoder::new(source))),
        Codec::Compress => Box::new(compress::Decoder::new(source)),
    })
}

/// Reads LZ4 frames one after the other: the crate's decoder says "end" after each.
struct Lz4Frames<R: BufRead>(lz4_flex::frame::FrameDecoder<R>);

impl<R: BufRead> Read for Lz4Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let read = self.0.read(buffer)?;
            // An empty frame or the end of one consumes bytes, so this ends with the source.
            if read > 0 || self.0.get_mut().fill_buf()?.is_empty() {
                return Ok(read);
            }
        }
    }
}
