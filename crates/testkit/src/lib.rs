//! What firn's tests share: generated NARs, real Nix, a real `firnd`, and ways to hurt the connection between them.
//!
//! Nothing here ships. The crate knows none of firn's other crates: each of them can use it in its own tests, and
//! [`nar`] is a second implementation that the real one can be compared with.
//!
//! ```no_run
//! use firn_testkit::nix::{Nix, Version};
//!
//! # fn main() -> firn_testkit::Result<()> {
//! let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
//! let store = nix.store()?;
//! let path = store.build_one(r#"build { name = "hello"; script = "echo hi > $out"; }"#)?;
//! assert_eq!(store.dump(&path)?, firn_testkit::nar::Node::file("hi\n").encode());
//! # Ok(())
//! # }
//! ```

pub mod corpus;
mod door;
mod error;
pub mod file_server;
pub mod firn;
pub mod firnd;
pub mod gateway;
pub mod http;
pub mod nar;
pub mod nix;
mod process;
mod program;
pub mod proxy;
pub mod random;
pub mod sshd;
pub mod strategy;

pub use error::{Error, Result};
pub use process::Ran;
