//! Tests of the push API: a client that cut and compressed by itself, and what it may get wrong.

mod assemble;
mod commit;
mod frames;
mod hints;
mod repair;
mod scope;

use firn_nix::StorePath;

use crate::fixture::client::Local;
use crate::fixture::{package_with, path};

/// Returns a NAR of which other generations differ in their store hashes alone.
fn rebuilt(generation: u8) -> Local {
    let dependency = |name: &str| StorePath::new(path(&format!("{name}-{generation}")).hash(), name).unwrap();
    Local::of(&package_with(1, 700_000, &["glibc", "bash"].map(dependency)))
}
