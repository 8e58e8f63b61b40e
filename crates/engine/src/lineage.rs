//! What later uploads may find in the content that is being taken in: where its streams begin, and what is like nothing.

use firn_chunk::Origin;
use firn_index::LineageKey;

/// Streams below this length are not worth a row of their own.
const MIN_STREAM_BYTES: u64 = 4 << 10;

/// Rows that are gathered of one recipe at most: 16 MiB.
const MAX_ROWS: usize = 1 << 20;

/// The stream that the last chunk belongs to.
struct Stream {
    key: u64,
    first: u32,
    bytes: u64,
}

/// Gathers the lineage of one recipe.
#[derive(Default)]
pub(crate) struct Lineage {
    stream: Option<Stream>,
    chunks: u32,
    rows: Vec<(LineageKey, u32)>,
}

impl Lineage {
    /// Takes note of the next chunk, new or not.
    pub(crate) fn pass(&mut self, origin: Option<Origin>, chunk_bytes: u64) {
        if let (Some(stream), Some(origin)) = (&mut self.stream, origin)
            && stream.key == origin.key
            && origin.offset > 0
        {
            stream.bytes = origin.offset + chunk_bytes;
        } else {
            self.end_stream();
            let first = origin.filter(|origin| origin.offset == 0);
            self.stream = first.map(|origin| Stream { key: origin.key, first: self.chunks, bytes: chunk_bytes });
        }
        self.chunks = self.chunks.saturating_add(1);
    }

    /// Takes note that the chunk that was passed last is stored without bases: others may be like it.
    pub(crate) fn note_features(&mut self, features: [u64; 2]) {
        if self.rows.len() < MAX_ROWS {
            let number = self.chunks.saturating_sub(1);
            self.rows.extend(features.map(|feature| (LineageKey(feature), number)));
        }
    }

    /// Returns keys, and which of the recipe's chunks they lead to.
    pub(crate) fn finish(&mut self) -> Vec<(LineageKey, u32)> {
        self.end_stream();
        std::mem::take(&mut self.rows)
    }

    fn end_stream(&mut self) {
        if let Some(stream) = self.stream.take()
            && stream.bytes >= MIN_STREAM_BYTES
            && self.rows.len() < MAX_ROWS
        {
            self.rows.push((LineageKey(stream.key), stream.first));
        }
    }
}
