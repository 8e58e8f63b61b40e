//! The index traits on RocksDB: the only crate that names it.
//!
//! Two databases, so that each has the durability that it needs. [`RocksMeta`] syncs its write-ahead log once for
//! every batch; [`RocksChunkIndex`] has none, because packs hold everything that it knows, and loses what was not
//! flushed when the process dies.
//!
//! ```
//! use firn_index::Meta;
//! use firn_index_rocks::{MetaOptions, RocksMeta};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! let meta = RocksMeta::open(folder.path(), &MetaOptions::default())?;
//! let name = "main".parse()?;
//! assert_eq!(meta.cache(&name)?, None);
//! # Ok(())
//! # }
//! ```

mod chunks;
mod database;
mod errors;
mod keys;
mod lineage;
mod log_files;
mod meta;
mod options;
mod staged;

pub use chunks::RocksChunkIndex;
pub use meta::RocksMeta;
pub use options::{ChunkIndexOptions, MetaOptions};
