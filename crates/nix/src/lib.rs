//! Nix's formats: base-32, hashes, store paths, NARs, listings, narinfos, keys and signatures, `nix-cache-info`.
//!
//! All of it computes on bytes that the caller has: no files, no network. What is parsed is canonical or refused, so that what
//! we print again is what every Nix from 2.8 on understands.
//!
//! The NAR decoder is our own: it is pushed bytes as they come from the network, reports where each file's contents begin,
//! takes names as bytes and refuses every second spelling of a tree; no published crate does all of this.
//!
//! ```
//! use firn_nix::{NarInfo, SecretKey};
//!
//! let key = SecretKey::generate("cache.example.org-1", [7; 32])?;
//! let mut info = NarInfo::parse(b"\
//! StorePath: /nix/store/0fanvwfh6772nmhmbw78d8jmj0dr6lpc-top
//! URL: nar/02by0f9myq6xi08bbr8ig0bf4w92r8vagh3k7hjk4al5xqxidq4i.nar
//! Compression: none
//! NarHash: sha256:02by0f9myq6xi08bbr8ig0bf4w92r8vagh3k7hjk4al5xqxidq4i
//! NarSize: 600
//! ", "/nix/store")?;
//! info.sign(&key, "/nix/store");
//! assert!(info.is_signed_by(&key.public(), "/nix/store"));
//! # Ok::<(), firn_nix::Error>(())
//! ```

#[macro_use]
mod text_traits;

pub mod base32;
mod cache_info;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod hash;
mod keys;
pub mod nar;
mod narinfo;
mod realisation;
mod store_path;

pub use cache_info::{CacheInfo, MAX_CACHE_INFO_LEN};
pub use error::{Error, Result};
pub use hash::Sha256;
pub use keys::{MAX_KEY_NAME_LEN, PublicKey, SecretKey, Signature};
pub use narinfo::{Compression, ContentAddress, MAX_NARINFO_LEN, NarInfo};
pub use realisation::{build_trace_fingerprint, realisation_fingerprint};
pub use store_path::{MAX_NAME_LEN, StoreHash, StorePath};
