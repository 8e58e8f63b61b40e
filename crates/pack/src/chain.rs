//! What linked frames are compressed with: the record frames before them.

use crate::{Codec, FrameKind};

/// The most bytes of items that a linked frame is compressed with.
pub const MAX_CHAIN_BYTES: usize = 64 << 10;

/// The most linked frames behind one that stands alone: what damage to one frame may take along.
pub const MAX_LINKS: u32 = 63;

/// The items of a pack's record frames that lie before some place, from the last one that stands alone on.
///
/// A record is small and much like the last one, and each commit makes a frame of its own: together they compress to a
/// fraction. Only whoever reads all records of a pack needs them, so it costs nothing to read them in order.
/// Holds the last [`MAX_CHAIN_BYTES`], and up to as much again while it takes a frame.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    data: Vec<u8>,
    /// Linked frames since the one that stands alone; `None` while there is nothing to link to.
    links: Option<u32>,
}

impl Chain {
    /// Takes the next record frame of the pack: how it was compressed, and its items, one behind the other.
    pub fn push(&mut self, codec: Codec, items: &[u8]) {
        if codec == Codec::Linked {
            self.links = self.links.map(|links| links.saturating_add(1));
        } else {
            self.data.clear();
            self.links = Some(0);
        }
        let items = items.get(items.len().saturating_sub(MAX_CHAIN_BYTES)..).unwrap_or_default();
        let excess = (self.data.len() + items.len()).saturating_sub(MAX_CHAIN_BYTES);
        self.data.drain(..excess);
        self.data.extend_from_slice(items);
    }

    /// Takes note that a record frame of the pack can't be read: linked frames behind it can't either.
    pub fn tear(&mut self) {
        *self = Self::default();
    }

    /// Returns whether the next frame may be linked.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.links.is_some_and(|links| links < MAX_LINKS)
    }

    /// Returns what a linked frame at this place is compressed with: nothing if none can be read.
    #[must_use]
    pub fn prefix(&self) -> &[u8] {
        &self.data
    }

    /// Returns [`Chain::prefix`] for a frame that is linked, as its entry says, and nothing for others.
    #[must_use]
    pub fn prefix_of(&self, codec: Codec) -> &[u8] {
        if codec == Codec::Linked { self.prefix() } else { &[] }
    }

    /// Takes note of a frame of any kind, given its items, or `None` if it can't be read.
    pub fn pass(&mut self, kind: FrameKind, codec: Codec, items: Option<&[u8]>) {
        match items {
            _ if kind != FrameKind::Record => {}
            Some(items) => self.push(codec, items),
            None => self.tear(),
        }
    }
}
