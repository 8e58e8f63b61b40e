//! `firn watch-exec`.

use crate::context::Context;
use crate::failure::Failure;

/// The command's arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

/// Runs the command.
pub(crate) fn run(_arguments: &Arguments, _context: &Context) -> Result<u8, Failure> {
    Err(Failure::not_built("watch-exec"))
}
