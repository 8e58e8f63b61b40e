//! Bytes to chunks to a recipe, and back: normalise, cut, ids, recipe encoding; and the inverse.
//!
//! Everything here is a pure function of the input's bytes: no files, no network, no clock. How the input is
//! divided over calls never changes a result.
//!
//! ```
//! use std::sync::Arc;
//!
//! use firn_chunk::{Chunker, Input, Patcher};
//!
//! let original = b"/nix/store/s1ya6vkkiayb6ysznh2k14bpyy2xinwk-hello/bin/hello";
//! let mut normalised = Vec::new();
//! let mut chunker = Chunker::new(Input::Bytes);
//! chunker.push(original, &mut |chunk| normalised.extend_from_slice(chunk.data))?;
//! let cut = chunker.finish(&mut |chunk| normalised.extend_from_slice(chunk.data))?;
//! assert_eq!(normalised[11..43], [0; 32]);
//! assert_eq!(cut.slots[0].to_string(), "s1ya6vkkiayb6ysznh2k14bpyy2xinwk");
//!
//! Patcher::new(Arc::new(cut.recipe), &cut.slots)?.apply(0, &mut normalised);
//! assert_eq!(normalised, original);
//! # Ok::<(), firn_chunk::Error>(())
//! ```

mod bare;
mod chunker;
mod error;
mod features;
#[doc(hidden)]
pub mod fuzz;
mod hint;
mod id;
mod normalise;
mod origin;
mod patcher;
mod patches;
mod recipe;
mod varint;

pub use bare::BareRecipe;
pub use chunker::{Chunk, Chunker, Cut};
pub use error::{Error, Result};
pub use features::features;
pub use hint::Hint;
pub use id::{ChunkId, ChunkerId, IdError, Input, RecipeId};
pub use origin::{Origin, Places};
pub use patcher::Patcher;
pub use patches::{PATCH_BYTES, Patch, Patches};
pub use recipe::{ChunkRef, Recipe};

/// The most store hashes that normalisation takes from one input.
///
/// What comes after stays in the chunks as it is. A real package has at most some thousands.
pub const MAX_SLOTS: usize = 65_535;

/// The most patches that normalisation makes for one input.
///
/// What comes after stays in the chunks as it is. With [`MAX_CHUNKS`] it keeps an encoded recipe under 64 MiB.
pub const MAX_PATCHES: usize = 4_194_304;

/// The most chunks that one input may be cut into: about 64 GiB of real data, 256 GiB at most.
pub const MAX_CHUNKS: usize = 1 << 20;
