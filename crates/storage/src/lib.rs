//! Named immutable objects: disk and memory, and decorators that meter and fail.
//!
//! An *object* grows by appending while one writer holds it, and never changes after that. Its name is used
//! once. [`Storage`] is synchronous: callers that must not block call it on a pool. What an object's bytes
//! mean is none of this crate's business.
//!
//! Durability is what this crate is for: [`ObjectWriter::sync`] and [`Storage::put`] return when bytes *and
//! name* survive a loss of power, and not before. What a crash leaves half-done is cleaned when a storage is
//! opened, never in `Drop`.
//!
//! ```
//! use firn_storage::{Memory, Storage};
//!
//! # fn main() -> firn_storage::Result<()> {
//! let storage = Memory::new();
//! let mut writer = storage.create("packs/ab/abcd")?;
//! let offset = writer.append(&[b"one", b"two"])?;
//! writer.sync()?;
//! assert_eq!(storage.read("packs/ab/abcd", offset + 3, 3)?, "two");
//! # Ok(())
//! # }
//! ```

pub mod conformance;
mod disk;
mod error;
mod fault;
mod memory;
mod meter;
mod name;
mod object;

pub use disk::Disk;
pub use error::{Error, Result};
pub use fault::{Failure, Fault, Operation};
pub use memory::Memory;
pub use meter::{Meter, Metered};
pub use name::{MAX_NAME_LEN, check_name};
pub use object::{ObjectEntry, ObjectWriter, Storage};
