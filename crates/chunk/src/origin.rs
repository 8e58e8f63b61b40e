//! Where in a NAR a chunk comes from, so that the same place of an earlier NAR can be found.
//!
//! A *stream* is what is cut on its own: a larger file, or what stands between two of them. It is known by the path
//! of the file, or of the first small file in it, with digits blurred: releases have their version in names.

use std::collections::VecDeque;

use firn_nix::nar::{Decoder, Event, NarError};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::chunker::OWN_STREAM_BYTES;

/// A place in a NAR, without the package that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Names the stream: the same for the same path, whatever the digits in it are.
    pub key: u64,
    /// Bytes between the stream's beginning and the chunk.
    pub offset: u64,
}

/// Keeps streams of small files apart from larger files of the same name.
const SMALL_FILES: u64 = 1;

struct Stream {
    start: u64,
    key: u64,
    /// Where the contents of the file begin that names the stream; `u64::MAX` while there is none.
    named_at: u64,
}

impl Stream {
    fn unnamed(start: u64) -> Self {
        Self { start, key: 0, named_at: u64::MAX }
    }
}

/// Follows the events of a NAR. Takes eight bytes for each directory that is open, and as many streams as the chunker
/// has borders.
pub(crate) struct Origins {
    directories: Vec<u64>,
    node: u64,
    streams: VecDeque<Stream>,
    scratch: Vec<u8>,
}

impl Origins {
    pub(crate) fn new() -> Self {
        let streams = VecDeque::from([Stream::unnamed(0)]);
        Self { directories: Vec::new(), node: 0, streams, scratch: Vec::new() }
    }

    /// Takes the next event; files of `own_stream` bytes and more are streams of their own.
    pub(crate) fn note(&mut self, event: &Event<'_>, own_stream: u64) {
        match *event {
            Event::Directory => self.directories.push(self.node),
            Event::Entry { name } => self.node = self.path(name),
            Event::EndDirectory => self.node = self.directories.pop().unwrap_or(0),
            Event::Regular { offset, size, .. } if size >= own_stream => {
                self.streams.push_back(Stream { start: offset, key: self.node, named_at: offset });
                self.streams.push_back(Stream::unnamed(offset.saturating_add(size)));
            }
            Event::Regular { offset, .. } => {
                if let Some(last) = self.streams.back_mut().filter(|last| last.named_at == u64::MAX) {
                    last.named_at = offset;
                    last.key = xxh3_64_with_seed(&self.node.to_le_bytes(), SMALL_FILES);
                }
            }
            Event::Contents(_) | Event::Symlink { .. } => {}
        }
    }

    /// Returns where a chunk comes from, given its place in the NAR. Chunks are asked for in their order.
    ///
    /// A name counts only if it stands before the chunk's end: so that how the input was divided changes nothing.
    pub(crate) fn of(&mut self, start: u64, end: u64) -> Option<Origin> {
        while self.streams.get(1).is_some_and(|next| next.start <= start) {
            self.streams.pop_front();
        }
        let stream = self.streams.front().filter(|stream| stream.named_at < end)?;
        Some(Origin { key: stream.key, offset: start.saturating_sub(stream.start) })
    }

    fn path(&mut self, name: &[u8]) -> u64 {
        let parent = self.directories.last().copied().unwrap_or(0);
        self.scratch.clear();
        for &byte in name {
            let blurred = if byte.is_ascii_digit() { b'0' } else { byte };
            if blurred != b'0' || self.scratch.last() != Some(&b'0') {
                self.scratch.push(blurred);
            }
        }
        xxh3_64_with_seed(&self.scratch, parent)
    }
}

/// Says where in a NAR its chunks come from when they are known and need not be cut.
///
/// Takes what [`crate::Chunker`] takes for the same purpose. The bytes must be patched, with any store hashes: NUL
/// is not allowed in names. A name that contains a store hash gives another place then.
pub struct Places {
    decoder: Decoder,
    origins: Origins,
    position: u64,
    is_broken: bool,
}

impl Default for Places {
    fn default() -> Self {
        Self { decoder: Decoder::new(), origins: Origins::new(), position: 0, is_broken: false }
    }
}

impl Places {
    /// Takes the next chunk and returns where it comes from, if there is a name for that. Behind bytes that can't be a
    /// NAR's there is none any more.
    pub fn next(&mut self, chunk: &[u8]) -> Option<Origin> {
        self.is_broken = self.is_broken || self.push(chunk).is_err();
        if self.is_broken { None } else { self.place(chunk.len() as u64) }
    }

    /// Takes the next bytes, however they are divided; [`Self::place`] is for the chunks in them.
    ///
    /// # Errors
    /// Those of a NAR's [`Decoder`]; nothing more can be pushed then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), NarError> {
        let origins = &mut self.origins;
        self.decoder.push(bytes, &mut |event| origins.note(&event, OWN_STREAM_BYTES))
    }

    /// Returns where the next chunk comes from, of which all bytes were pushed.
    pub fn place(&mut self, chunk_bytes: u64) -> Option<Origin> {
        let start = self.position;
        self.position += chunk_bytes;
        self.origins.of(start, self.position)
    }

    /// Ends the NAR.
    ///
    /// # Errors
    /// When it is not whole.
    pub fn finish(self) -> Result<(), NarError> {
        self.decoder.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(offset: u64, size: u64) -> Event<'static> {
        Event::Regular { executable: false, offset, size }
    }

    /// A tree with a small file, a larger one under a name with a version, and another small one.
    fn origins(version: &str, at: u64) -> [Option<Origin>; 4] {
        let mut origins = Origins::new();
        let name = format!("libx.so.{version}");
        let events = [
            Event::Directory,
            Event::Entry { name: b"a" },
            file(100, 20),
            Event::Entry { name: name.as_bytes() },
            file(at, 50_000),
            Event::Entry { name: b"z" },
            file(at + 50_100, 20),
            Event::EndDirectory,
        ];
        for event in &events {
            origins.note(event, 16 << 10);
        }
        [(0, 90), (0, 101), (at + 30_000, at + 40_000), (at + 50_000, at + 50_200)]
            .map(|(start, end)| origins.of(start, end))
    }

    #[test]
    fn a_place_is_known_by_its_blurred_path() {
        let [unnamed, first, large, last] = origins("1.2.11", 300);
        assert_eq!(unnamed, None);
        assert_eq!(first.map(|origin| origin.offset), Some(0));
        assert_eq!(large.map(|origin| origin.offset), Some(30_000));
        assert_eq!(last.map(|origin| origin.offset), Some(0));
        assert_eq!(origins("2.10.3", 9000), [unnamed, first, large, last]);
        let [_, _, other, _] = origins("1.2.11.debug", 300);
        assert_ne!(other, large);
        assert_ne!(first.map(|origin| origin.key), last.map(|origin| origin.key));
    }

    #[test]
    fn places_are_those_of_the_chunker() {
        let noise =
            |len: usize| (0..len as u64).map(|at| xxh3_64_with_seed(&at.to_le_bytes(), 7) as u8).collect::<Vec<_>>();
        let file = |bytes: &[u8]| {
            let text = |text: &[u8]| {
                [&(text.len() as u64).to_le_bytes()[..], text, &vec![0; (8 - text.len() % 8) % 8]].concat()
            };
            let words: [&[u8]; 5] = [b"(", b"type", b"regular", b"contents", bytes];
            [words.map(text).concat(), text(b")")].concat()
        };
        let text =
            |text: &[u8]| [&(text.len() as u64).to_le_bytes()[..], text, &vec![0; (8 - text.len() % 8) % 8]].concat();
        let mut nar = [&b"nix-archive-1"[..], b"(", b"type", b"directory"].map(text).concat();
        for (name, len) in [("a-1.2", 100), ("b", 300_000), ("c", 20), ("d", 50_000)] {
            nar.extend([&b"entry"[..], b"(", b"name", name.as_bytes(), b"node"].map(text).concat());
            nar.extend(file(&noise(len)));
            nar.extend(text(b")"));
        }
        nar.extend(text(b")"));
        Decoder::new().push(&nar, &mut |_| {}).expect("it is a NAR");

        let (mut chunker, mut places) = (crate::Chunker::new(crate::Input::Nar), Places::default());
        let mut count = 0;
        let mut compare = |chunk: crate::Chunk<'_>| {
            count += 1;
            assert_eq!(places.next(chunk.data), chunk.origin);
        };
        chunker.push(&nar, &mut compare).expect("it is a NAR");
        chunker.finish(&mut compare).expect("it is whole");
        assert!(count > 6, "{count}");
        assert_eq!(places.next(b"and more"), None);
    }
}
