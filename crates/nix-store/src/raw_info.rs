//! What a program of Nix's says of a path, before anything of it is understood: what we don't like of it doesn't cost the connection.

use std::io::BufReader;

use firn_nix::StorePath;

use crate::PathInfo;
use crate::counted::Counted;
use crate::daemon::wire::{self, ReadResult};

pub(crate) const MAX_REFERENCES: u64 = 1_000_000;
pub(crate) const MAX_SIGNATURES: u64 = 1000;

/// The fields of a path's row, as they came; those that a protocol does not have are empty, 0 or false.
#[derive(Debug, Default)]
pub(crate) struct RawInfo {
    pub(crate) deriver: String,
    pub(crate) nar_hash: String,
    pub(crate) references: Vec<String>,
    pub(crate) registered_at: u64,
    pub(crate) nar_size: u64,
    pub(crate) ultimate: bool,
    pub(crate) signatures: Vec<String>,
    pub(crate) ca: String,
}

/// Reads a list of at most so many texts.
pub(crate) fn texts(from: &mut BufReader<Counted>, most: u64) -> ReadResult<Vec<String>> {
    (0..wire::count(from, most)?).map(|_| wire::text(from)).collect()
}

/// Reads a store path; the error says which text is none.
pub(crate) fn store_path(text: &str, store_dir: &str) -> Result<StorePath, String> {
    let path = StorePath::parse_absolute(text, store_dir);
    path.map_err(|error| format!("{text:?} is no store path of {store_dir}: {error}"))
}

impl RawInfo {
    /// Understands it; the error says what can't be.
    pub(crate) fn parse(self, path: StorePath, store_dir: &str) -> Result<PathInfo, String> {
        let references = self.references.iter().map(|text| store_path(text, store_dir));
        let mut references = references.collect::<Result<Vec<_>, _>>()?;
        references.sort_unstable();
        if self.nar_size == 0 {
            return Err("the size of its NAR is not recorded".to_owned());
        }
        let nar_hash = self.nar_hash.parse();
        Ok(PathInfo {
            id: 0,
            path,
            nar_hash: nar_hash.map_err(|error| format!("its hash {:?} is none: {error}", self.nar_hash))?,
            nar_size: self.nar_size,
            // A time before 1970 comes as a huge number.
            registered_at: i64::try_from(self.registered_at).map_or(0, i64::unsigned_abs),
            deriver: if self.deriver.is_empty() { None } else { Some(store_path(&self.deriver, store_dir)?) },
            ultimate: self.ultimate,
            signatures: self.signatures,
            ca: Some(self.ca).filter(|ca| !ca.is_empty()),
            references,
        })
    }
}
