//! Where NARs come from.

use std::error::Error as _;
use std::io::{self, Write};

use firn_nix::StorePath;
use firn_nix_store::{Error as StoreError, Location, dump};

/// Gives the NAR of a path, as often as it is asked for. Blocks.
pub trait Source: Send + Sync + 'static {
    /// Writes the path's NAR.
    ///
    /// # Errors
    /// What keeps the path from being read; [`SourceError::Stopped`] with what the writer said.
    fn dump(&self, path: &StorePath, out: &mut dyn Write) -> Result<(), SourceError>;
}

/// Why a NAR could not be had. The texts say what happened and to which file.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The path or a part of it is gone.
    #[error("{0}")]
    Vanished(String),
    /// It changed while it was read.
    #[error("{0}")]
    Changed(String),
    /// It can't be read, or be made a NAR of.
    #[error("{0}")]
    Unreadable(String),
    /// It could not be read this time: this machine was short of something, or a disk failed.
    #[error("{0}")]
    Hindered(String),
    /// The writer did not want more.
    #[error("stop writing")]
    Stopped(#[source] io::Error),
}

/// A Nix store on this machine.
#[derive(Debug, Clone)]
pub struct StoreSource(pub Location);

impl Source for StoreSource {
    fn dump(&self, path: &StorePath, out: &mut dyn Write) -> Result<(), SourceError> {
        match dump(&self.0, path, out) {
            Ok(_) => Ok(()),
            Err(StoreError::Sink { source }) => Err(SourceError::Stopped(source)),
            Err(error @ StoreError::Vanished { .. }) => Err(SourceError::Vanished(with_causes(&error))),
            Err(error @ StoreError::Changed { .. }) => Err(SourceError::Changed(with_causes(&error))),
            Err(error @ StoreError::Hindered { .. }) => Err(SourceError::Hindered(with_causes(&error))),
            Err(error) => Err(SourceError::Unreadable(with_causes(&error))),
        }
    }
}

fn with_causes(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
