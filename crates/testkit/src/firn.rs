//! The real program `firn`.

use std::path::PathBuf;

use crate::error::Result;
use crate::program::Program;

/// Returns the program to test: `$FIRN`, else the workspace's own, built from the source as it is.
pub fn binary() -> Result<PathBuf> {
    static BINARY: Program = Program::new("FIRN", "firn-cli", "firn");
    BINARY.path()
}
