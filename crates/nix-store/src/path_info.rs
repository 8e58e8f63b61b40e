//! What a store knows of its paths.

use firn_nix::{Compression, NarInfo, PublicKey, Sha256, Signature, StorePath};

/// What a store has recorded of a valid path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathInfo {
    /// The row's id. It grows with every registration and is never used again; 0 where the daemon was asked, who has none.
    pub id: i64,
    /// The path.
    pub path: StorePath,
    /// The SHA-256 of its NAR.
    pub nar_hash: Sha256,
    /// The length of its NAR in bytes, at least 1.
    pub nar_size: u64,
    /// When it was registered here, in seconds since 1970; earlier is 0.
    pub registered_at: u64,
    /// The derivation that built it, as far as known. It need not be valid.
    pub deriver: Option<StorePath>,
    /// Whether it was built here, and not copied.
    pub ultimate: bool,
    /// Signatures as `name:base64`, not checked.
    pub signatures: Vec<String>,
    /// The content address, as Nix spells it, not checked.
    pub ca: Option<String>,
    /// The paths that it refers to, sorted, itself included if it does.
    pub references: Vec<StorePath>,
}

impl PathInfo {
    /// Returns what a signature signs: path, hash, size and references.
    #[must_use]
    pub fn fingerprint(&self, store_dir: &str) -> String {
        self.narinfo().fingerprint(store_dir)
    }

    /// Returns it as a narinfo, without a file and without the content address. Malformed signatures are left out.
    #[must_use]
    pub fn narinfo(&self) -> NarInfo {
        NarInfo {
            store_path: self.path.clone(),
            url: String::new(),
            compression: Compression::None,
            file_hash: None,
            file_size: None,
            nar_hash: self.nar_hash,
            nar_size: self.nar_size,
            references: self.references.iter().cloned().collect(),
            deriver: self.deriver.clone(),
            signatures: self.signatures.iter().filter_map(|text| text.parse().ok()).collect(),
            ca: None,
        }
    }

    /// Returns a signature that is genuine and by one of `keys`. Costs a verification, about 50 µs, for each that bears one's name.
    #[must_use]
    pub fn signature_by(&self, keys: &[PublicKey], store_dir: &str) -> Option<Signature> {
        let mut fingerprint = None;
        self.signatures.iter().filter_map(|text| text.parse::<Signature>().ok()).find(|signature| {
            keys.iter().filter(|key| key.name() == signature.key_name()).any(|key| {
                let text = fingerprint.get_or_insert_with(|| self.fingerprint(store_dir));
                key.verify(text.as_bytes(), signature)
            })
        })
    }
}

/// A row of the database that makes no [`PathInfo`]. It keeps nobody from the other rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableRow {
    /// The row's id.
    pub id: i64,
    /// The path as the database has it, cut to 512 bytes.
    pub path: String,
    /// What is wrong.
    pub why: String,
}

/// The answer to a question about several paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// What was found.
    pub paths: Vec<PathInfo>,
    /// What was asked for by name and is not valid.
    pub absent: Vec<StorePath>,
    /// What was found and makes no sense.
    pub unreadable: Vec<UnreadableRow>,
}

impl Selection {
    /// Returns the highest id found, readable or not: where to go on after a page. `None` if nothing was.
    #[must_use]
    pub fn last_id(&self) -> Option<i64> {
        let ids = self.paths.iter().map(|info| info.id);
        ids.chain(self.unreadable.iter().map(|row| row.id)).max()
    }
}
