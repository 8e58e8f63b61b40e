use firn_index::Refusal;
use firn_nix::StorePath;
use firn_nix::nar::NarError;

/// What an engine operation can fail with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such thing; nothing is wrong.
    #[error("find {what}")]
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// Stored bytes are missing or not what they should be. The next upload of the same content repairs them.
    #[error("restore {what}: {detail}")]
    Damaged {
        /// What can't be restored.
        what: String,
        /// Which bytes are wrong, and where.
        detail: String,
    },
    /// The bytes are no NAR.
    #[error("read the NAR")]
    Nar(#[source] NarError),
    /// The bytes are more than the store takes.
    #[error("ingest: it is larger than the {limit} bytes that this store takes")]
    TooLarge {
        /// The most bytes allowed.
        limit: u64,
    },
    /// The disk has no room, or less than the store keeps free.
    #[error("store: no space left on the device")]
    StorageFull,
    /// The store stopped writing after an earlier failure, until it is opened again.
    #[error("store: writing stopped after an error ({0}): restart the server once the disk is well")]
    WritesStopped(String),
    /// A commit was refused.
    #[error("commit the upload")]
    Refused(#[source] Refusal),
    /// A path was offered whose NAR is another than the one uploaded.
    #[error("commit {path}: {detail}")]
    WrongNar {
        /// The path.
        path: String,
        /// What does not match.
        detail: String,
    },
    /// A path refers to paths that the cache does not have.
    #[error("commit the path: the cache lacks {} that it refers to, first {}", count(.0.len()), first(.0))]
    MissingReferences(Vec<StorePath>),
    /// A path claims references whose store hash does not occur in its NAR.
    #[error("commit the path: {} that it claims to refer to do not occur in its NAR, first {}", count(.0.len()), first(.0))]
    ForeignReferences(Vec<StorePath>),
    /// A frame that was pushed is not one, or is over a limit. What came before it was stored.
    #[error("store the frame at byte {offset}: {detail}")]
    BadFrame {
        /// Where it begins in the body.
        offset: u64,
        /// What is wrong with it.
        detail: String,
    },
    /// A recipe that was pushed is not one, or does not suit what was said of it.
    #[error("read the recipe: {detail}")]
    BadRecipe {
        /// What is wrong with it.
        detail: String,
    },
    /// The store does not know a recipe, or what it knows is damaged: send its encoding.
    #[error("find the recipe: it must be sent")]
    RecipeUnknown,
    /// Chunks of a recipe are not there: for each, in the recipe's order, whether it must be sent.
    #[error("find {} of the recipe's {} chunks: they must be sent", .0.iter().filter(|missing| **missing).count(), .0.len())]
    MissingChunks(Vec<bool>),
    /// The store can't be used by this program.
    #[error("open the store: {0}")]
    Unusable(String),
    /// The index failed.
    #[error("use the index")]
    Index(#[source] firn_index::Error),
    /// The storage failed.
    #[error("use the storage")]
    Storage(#[source] firn_storage::Error),
    /// Encoding or decoding failed in a way that says nothing about stored bytes.
    #[error("{0}")]
    Internal(String),
}

/// The result of an engine operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Returns an error with its sources, as one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

fn count(n: usize) -> String {
    if n == 1 { "1 path".to_owned() } else { format!("{n} paths") }
}

fn first(paths: &[StorePath]) -> String {
    paths.first().map(ToString::to_string).unwrap_or_default()
}

impl From<firn_index::Error> for Error {
    fn from(error: firn_index::Error) -> Self {
        match error {
            firn_index::Error::Full => Self::StorageFull,
            other => Self::Index(other),
        }
    }
}

impl From<firn_storage::Error> for Error {
    fn from(error: firn_storage::Error) -> Self {
        match error {
            firn_storage::Error::Full { .. } => Self::StorageFull,
            other => Self::Storage(other),
        }
    }
}

impl From<firn_chunk::Error> for Error {
    fn from(error: firn_chunk::Error) -> Self {
        match error {
            firn_chunk::Error::Nar(error) => Self::Nar(error),
            firn_chunk::Error::TooLong { .. } => Self::TooLarge { limit: firn_chunk::MAX_CHUNKS as u64 * (64 << 10) },
            other => Self::Internal(other.to_string()),
        }
    }
}

impl Error {
    /// Returns the error for packs of which no index tells.
    pub fn packs_without_index() -> Self {
        Self::Unusable(
            "there are packs, and its index is missing or empty: put the index back, or have it made from the packs \
             (`firnd rebuild-index`)"
                .to_owned(),
        )
    }

    pub(crate) fn damaged(what: impl ToString, detail: impl ToString) -> Self {
        Self::Damaged { what: what.to_string(), detail: detail.to_string() }
    }

    /// Returns the error as somebody else gets it whose change failed together with another's.
    pub(crate) fn for_another(&self) -> Self {
        match self {
            Self::StorageFull => Self::StorageFull,
            Self::WritesStopped(why) => Self::WritesStopped(why.clone()),
            Self::Internal(why) => Self::Internal(why.clone()),
            other => Self::Internal(format!("commit: {other}")),
        }
    }

    /// Returns whether the error says that stored bytes are gone or wrong, rather than that they could not be read now.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }

    /// Returns the error as damage.
    pub(crate) fn into_damage(self) -> Self {
        match self {
            Self::Damaged { .. } => self,
            other => Self::damaged("what was stored before", chain(&other)),
        }
    }

    /// Returns whether the error may concern one pack alone: what it holds is wrong, gone, or can't be read now.
    pub(crate) fn is_of_pack(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Storage(_))
    }
}
