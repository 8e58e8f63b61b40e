use firn_nix::nar::NarError;

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between bytes and recipes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are no recipe in canonical encoding.
    #[error("decode a recipe: {what} at byte {at}")]
    Corrupt {
        /// What is wrong.
        what: &'static str,
        /// Where in the encoding, in bytes.
        at: usize,
    },
    /// A newer firn wrote the recipe.
    #[error("decode a recipe: its version is {found}, and this firn knows up to {known}: upgrade firn")]
    TooNew {
        /// The recipe's version.
        found: u8,
        /// The newest version that this code reads.
        known: u8,
    },
    /// The input is no NAR; the source says where it stops being one.
    #[error(transparent)]
    Nar(#[from] NarError),
    /// The store hashes do not belong to the recipe.
    #[error("fill {wanted} slots with {got} store hashes")]
    Slots {
        /// How many slots the recipe has.
        wanted: usize,
        /// How many store hashes were given.
        got: usize,
    },
    /// The input would need more than [`crate::MAX_CHUNKS`] chunks.
    #[error("cut an input of more than {limit} chunks")]
    TooLong {
        /// The limit.
        limit: usize,
    },
}
