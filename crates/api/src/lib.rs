//! Wire types of the push API: what firnd and its clients say to each other. No I/O.
//!
//! Requests go to an [`Endpoint`]. Questions are lists of ids in binary ([`encode_ids`], [`decode_ids`]) and their answers a
//! [`Bitmap`]; a commit is a [`CommitWriter`]'s body and is answered line by line ([`AnswerReader`]); what is refused is an
//! [`ErrorAnswer`] whose [`Code`] says whether to try again. [`negotiate`] decides if two ends can work together.
//! `docs/PROTOCOL.md` describes the whole for somebody who writes another client.
//!
//! Both ends ignore JSON fields that they don't know, and have defaults for those that came later than version 1.
//!
//! ```
//! use firn_api::{Bitmap, Capabilities, Endpoint, Limits, decode_ids, encode_ids, negotiate};
//! use firn_chunk::{ChunkId, ChunkerId};
//!
//! // The client.
//! let capabilities: Capabilities = serde_json::from_str(
//!     r#"{"server": "firnd 0.1.0", "versions": [1], "chunker": "nar-fastcdc-v2020/16384-65536-262144/1"}"#,
//! )?;
//! let agreed = negotiate(&capabilities, ChunkerId::CURRENT)?;
//! assert_eq!(agreed.limits.chunks, 65_536);
//! let path = Endpoint::MissingChunks.path("main");
//! let body = encode_ids(&[ChunkId([1; 32]), ChunkId([2; 32])]);
//!
//! // The server.
//! assert_eq!(Endpoint::parse(&path), Some(("main", Endpoint::MissingChunks)));
//! let ids: Vec<ChunkId> = decode_ids(&body, Limits::default().chunks)?;
//! let answer = Bitmap::from_bools(&[false, true]).into_bytes();
//!
//! // The client again.
//! assert_eq!(Bitmap::decode(&answer, ids.len())?.ones().collect::<Vec<_>>(), [1]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod answer;
mod bitmap;
mod cache;
mod capabilities;
mod code;
mod commit;
mod endpoint;
mod error;
mod frames;
#[doc(hidden)]
pub mod fuzz;
mod hints;
mod identity;
mod ids;
mod limits;
mod paths;
mod pin;
mod session;
pub mod usage;
mod usage_text;

pub use answer::{AnswerReader, PathAnswer, PathStatus, SIGN_OF_LIFE};
pub use bitmap::Bitmap;
pub use cache::CacheDescription;
pub use capabilities::{Agreement, Capabilities, Mismatch, VERSION, VERSIONS, negotiate};
pub use code::{Class, Code, ErrorAnswer};
pub use commit::{Commit, CommitHead, CommitWriter, Full, PathItem, Proof, Uploaded};
pub use endpoint::{Endpoint, PREFIX, ROOT_CACHE};
pub use error::{Error, Result};
pub use firn_chunk::ChunkerId;
pub use frames::{FramesTaken, PartTaken};
pub use hints::{HINT_BYTES, HINTS, encode_hints, split_hints};
pub use identity::{IDENTITY_PATH, IdentityAnswer, IdentityRequest, MAX_IDENTITY_BYTES};
pub use ids::{WireId, decode_ids, encode_ids};
pub use limits::Limits;
pub use paths::{ListedPath, MAX_LISTED_PATHS, PathList};
pub use pin::{Pin, PinAdd, PinRemove, Pins};
pub use session::{SESSION_HEADER, Session, SessionToken};
pub use usage_text::group_names;
