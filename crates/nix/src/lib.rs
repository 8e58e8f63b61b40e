//! Nix's formats: base-32, hashes, store paths, NARs, listings, narinfos, keys and signatures, `nix-cache-info`.
//!
//! Everything here computes on bytes in memory. What is parsed is canonical or refused, so that what we print again is what
//! every Nix from 2.8 on understands.
//!
//! The NAR decoder is our own: it is pushed bytes as they come from the network, reports where each file's contents begin,
//! takes names as bytes and refuses every second spelling of a tree; no published crate does all of this.

#[macro_use]
mod byte_serde;

pub mod base32;
mod error;
mod hash;
pub mod nar;
mod store_path;

pub use error::{Error, Result};
pub use hash::Sha256;
pub use store_path::{MAX_NAME_LEN, StoreHash, StorePath};
