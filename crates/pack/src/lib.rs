//! Frames and pack files: write, open, verify, recover.
//!
//! A *frame* is a run of items (chunks, recipes or records) compressed together; a *pack* is an object
//! that holds frames and ends in a *footer* that lists them with the ids of their items. This crate
//! turns items to bytes and back. It does no I/O of its own: whoever calls it appends the bytes to an
//! object, and gives a closure where something is to be read. `docs/FORMAT.md` draws the layout.
//!
//! ```
//! use firn_pack::{Footer, FrameDecoder, FrameEncoder, FrameKind, PackBuilder, PackId, item_id};
//!
//! # fn main() -> Result<(), firn_pack::Error> {
//! let mut encoder = FrameEncoder::new()?;
//! let frame = encoder.encode(FrameKind::Chunks, b"onetwo", &[3, 3], &[item_id(b"one"), item_id(b"two")], 3)?;
//!
//! let (mut builder, header) = PackBuilder::new(PackId([7; 16]));
//! let mut object = header.to_vec();
//! let at = builder.push(&frame.entry);
//! object.extend(frame.bytes);
//! object.extend(builder.finish());
//!
//! let read = |offset: u64, len: usize| Ok(object[offset as usize..][..len].to_vec());
//! let footer = Footer::open(read, object.len() as u64)?;
//! assert_eq!(footer.frames[0], (at.offset, frame.entry));
//!
//! let stored = &object[at.offset as usize..][..at.len as usize];
//! assert_eq!(FrameDecoder::new()?.decode(stored)?.item(1), Some(&b"two"[..]));
//! # Ok(())
//! # }
//! ```

mod builder;
mod chain;
mod decoder;
mod encoder;
mod error;
mod filter;
mod footer;
mod frame;
#[doc(hidden)]
pub mod fuzz;
mod layout;
mod location;
mod recover;
mod search;

pub use builder::PackBuilder;
pub use chain::{Chain, MAX_CHAIN_BYTES, MAX_LINKS};
pub use decoder::{DecodedFrame, FrameDecoder};
pub use encoder::{Bases, FrameEncoder};
pub use error::{Error, Result};
pub use footer::Footer;
pub use frame::{Codec, Frame, FrameEntry, FrameHead, FrameKind, Item, frame_bases, item_id};
pub use layout::{MAX_BASE_BYTES, MAX_BASES, MAX_FOOTER_BYTES, MAX_FRAME_RAW, MAX_ITEMS, PACK_HEADER_LEN, TRAILER_LEN};
pub use location::{ChunkLoc, FrameLoc, PackId};
pub use recover::{ChunkSource, Recovered, read_frame, read_header, recover, recover_behind};
