//! A corpus on disk: a file binary cache of uncompressed NARs, and a manifest in upload order.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use firn_nix::{NarInfo, StorePath};

/// One path of a corpus.
pub(crate) struct Entry {
    /// The generation that it came with.
    pub(crate) generation: String,
    /// What its narinfo says.
    pub(crate) info: NarInfo,
    /// Its NAR, uncompressed.
    pub(crate) nar: PathBuf,
}

/// Reads a corpus's manifest and narinfos.
pub(crate) fn read(folder: &Path) -> anyhow::Result<Vec<Entry>> {
    let manifest = folder.join("manifest.tsv");
    let text = std::fs::read_to_string(&manifest).with_context(|| {
        format!("read {}: name the folder of a corpus, which holds manifest.tsv and cache/", manifest.display())
    })?;
    text.lines().map(|line| entry(folder, line).with_context(|| format!("in the manifest's line {line:?}"))).collect()
}

fn entry(folder: &Path, line: &str) -> anyhow::Result<Entry> {
    let fields: Vec<&str> = line.split('\t').collect();
    ensure!(fields.len() >= 2, "it has fewer than two columns");
    let path = StorePath::parse_absolute(fields[1], "/nix/store")?;
    let narinfo = folder.join("cache").join(format!("{}.narinfo", path.hash()));
    let info = NarInfo::parse(&std::fs::read(&narinfo)?, "/nix/store")?;
    let nar = folder.join("cache").join(&info.url);
    Ok(Entry { generation: fields[0].to_owned(), info, nar })
}
