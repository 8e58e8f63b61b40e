//! Reads a builder's Nix store: its database, its daemon, its files.
//!
//! Everything blocks, nothing is written to the store, and whatever goes wrong says what is to be done. [`Database`] lists and looks
//! up valid paths, [`Daemon`] keeps them from being deleted meanwhile, [`dump`] turns one into its NAR, and [`resolve`] finds out which one a user means.
//!
//! ```no_run
//! use std::io::sink;
//! use std::path::Path;
//!
//! use firn_nix_store::{Database, Location, dump, resolve};
//!
//! # fn main() -> firn_nix_store::Result<()> {
//! let location = Location::from_env()?;
//! let path = resolve(&location, Path::new("./result"))?;
//! let database = Database::open(&location)?;
//! for info in database.closure(&[path])?.paths {
//!     let dumped = dump(&location, &info.path, &mut sink())?;
//!     assert_eq!(dumped.bytes, info.nar_size);
//! }
//! # Ok(())
//! # }
//! ```

mod connection;
mod counted;
mod daemon;
mod database;
mod dump;
mod error;
mod location;
mod nar_stream;
mod path_info;
mod pattern;
mod process;
mod raw_info;
mod resolve;
mod serve;

pub use daemon::{Daemon, Names};
pub use database::{Database, DbIdentity, MAX_PAGE};
pub use dump::{Dumped, dump};
pub use error::{Error, Result};
pub use location::Location;
pub use path_info::{PathInfo, Selection, UnreadableRow};
pub use pattern::Pattern;
pub use process::Process;
pub use resolve::resolve;
pub use serve::ServeProtocol;
