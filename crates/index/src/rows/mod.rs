//! The rows of [`crate::Meta`] and their encoding.
//!
//! A row is one version byte, then the row in postcard's encoding. The same bytes are written to packs as
//! records, so that a store can be rebuilt from its packs; `docs/FORMAT.md` lists the fields.

use serde::{Serialize, de::DeserializeOwned};

mod access;
mod collection;
mod contents;
mod difference;
mod names;
mod retention;
mod scrub;
mod source;
mod store;
#[cfg(test)]
mod tests;
mod upstreams;
mod usage;

pub use access::*;
pub use collection::*;
pub use contents::*;
pub use difference::*;
pub use names::*;
pub use retention::*;
pub use scrub::*;
pub use source::*;
pub use store::*;
pub use upstreams::*;
pub use usage::*;

/// A row that does not decode.
#[derive(Debug, thiserror::Error)]
#[error("decode a {row}: {detail}")]
pub struct RowError {
    /// The row's type.
    pub row: &'static str,
    /// What is wrong.
    pub detail: String,
}

/// A row with a version and an encoding.
pub trait Row: Serialize + DeserializeOwned {
    /// What the row is called in errors.
    const NAME: &'static str;
    /// The version that [`Row::encode`] writes, and the only one that [`Row::decode`] reads unless the row says otherwise.
    const VERSION: u8 = 1;

    /// Returns the row's bytes.
    fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![Self::VERSION]).expect("rows hold only types that postcard can write")
    }

    /// Reads a row; bytes after its end are an error.
    fn decode(bytes: &[u8]) -> Result<Self, RowError> {
        decode(bytes)
    }
}

/// Reads a row of the version that is written.
fn decode<R: Row>(bytes: &[u8]) -> Result<R, RowError> {
    let fail = |detail: String| RowError { row: R::NAME, detail };
    let (version, rest) = bytes.split_first().ok_or_else(|| fail("it is empty".into()))?;
    if *version != R::VERSION {
        return Err(fail(format!("its version is {version}, and this firn knows {}", R::VERSION)));
    }
    let (row, rest) = postcard::take_from_bytes(rest).map_err(|error| fail(error.to_string()))?;
    if rest.is_empty() { Ok(row) } else { Err(fail(format!("{} bytes follow its end", rest.len()))) }
}

macro_rules! rows {
    ($($type:ty: $name:literal),* $(,)?) => { $(impl Row for $type { const NAME: &'static str = $name; })* };
}

rows! {
    StoreInfo: "store's identity", Totals: "store's totals", PackRow: "pack row", RecipeRow: "recipe row",
    NarRow: "NAR row", AliasRow: "alias row", PathRow: "path row", DocumentRow: "document row",
    CacheRow: "cache row", TokenRow: "token row", UsageRow: "usage row", SummaryRow: "sums of a day",
    ProvenanceRow: "provenance row",
    PinRow: "pin", RetentionRow: "retention", LeaseRow: "lease",
    UpstreamsRow: "list of upstreams", IssuedRow: "issued token",
    ScrubRow: "scrub's outcome", CollectionRow: "collection's outcome",
    SourceRow: "settings", SourceStateRow: "state",
}
