//! NARs: the one serialisation of a file system tree that Nix hashes.
//!
//! [`Decoder`] turns bytes into [`Event`]s and [`Writer`] turns events back into the same bytes: there is exactly one NAR for a tree,
//! and the decoder accepts no other spelling of it. Names and targets are bytes. [`ListingBuilder`] makes a [`Listing`] of events.

mod decoder;
mod listing;
#[cfg(test)]
mod tests;
mod words;
mod writer;

pub use decoder::{Decoder, Event, NarError};
pub use listing::{
    Directory, Listing, ListingBuilder, ListingJson, MAX_LISTING_BYTES, MAX_LISTING_ENTRIES, MAX_LISTING_TEXT, Node,
};
pub use writer::Writer;

/// The deepest nesting of directories that is accepted; a root that is a directory is at depth 1.
///
/// Nix itself has no limit up to 2.26, and 64 in 2.34.
pub const MAX_DEPTH: usize = 256;

/// The longest file name in bytes: the limit of Linux's file systems.
pub const MAX_NAME_LEN: usize = 255;

/// The longest symlink target in bytes; Linux has at most 4095, other file systems more.
pub const MAX_TARGET_LEN: usize = 65536;
