//! `firnd export` and `firnd import`

use std::path::{self, Path, PathBuf};

use clap::Args;
use firn_index::CacheName;
use firn_nix::{StoreHash, StorePath};

use super::{CliError, Report, admin, exit, output};
use crate::admin::{Answer, FilesRequest, Request};
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::file_cache::{Compression, DocumentCounts, Selection};

pub(super) const EXPORT_HELP: &str = "\
Stock Nix reads DIR as file://DIR. Signatures are the cache's, so that its public key verifies them.
What is in DIR already is left alone. Logs, realisations and debug info of these paths go along.
While a server runs, the server does it: DIR must be writable to its user.

Examples:
  firnd export /mnt/usb/cache --cache main
  firnd export /mnt/usb/cache --cache main --compression xz /nix/store/…-hello-2.12";

pub(super) const IMPORT_HELP: &str = "\
DIR is what `nix copy --to file://DIR` or `firnd export` wrote: paths, with their logs, realisations and debug info.
Everything is checked as at an upload, and the cache's keys sign. What the cache has already is left alone. While a server runs, the server does it: its user
must be able to read DIR.

Example:
  firnd import /mnt/usb/cache --cache main";

#[derive(Debug, Args)]
pub(super) struct Export {
    /// The folder to write to
    dir: PathBuf,
    /// Paths to write with all that they refer to [default: all]
    paths: Vec<String>,
    /// The cache to read
    #[arg(long, value_name = "NAME")]
    cache: CacheName,
    /// How files are compressed
    #[arg(long, value_enum, default_value = "zstd", value_name = "NAME")]
    compression: Compression,
}

#[derive(Debug, Args)]
pub(super) struct Import {
    /// The folder to read
    dir: PathBuf,
    /// Paths to take with all that they refer to [default: all]
    paths: Vec<String>,
    /// The cache to write to
    #[arg(long, value_name = "NAME")]
    cache: CacheName,
}

pub(super) fn export(export: &Export, data: &DataDir, config: &Config) -> Result<Report, CliError> {
    let files = files(&export.dir, &export.paths, &export.cache)?;
    let request = Request::Export { files, compression: export.compression };
    let Answer::Exported(done) = admin::ask(data, config, &request, false)? else { return Err(admin::unexpected()) };
    let mut text = output::pairs(&[
        ("written", format!("{} paths, {}", done.paths, output::bytes(done.logical_bytes))),
        ("files", output::bytes(done.file_bytes)),
        ("documents", documents(&done.documents)),
        ("there before", done.present.to_string()),
        ("references elsewhere", done.absent_references.to_string()),
        ("damaged, left out", done.damaged.to_string()),
    ]);
    done.examples.iter().for_each(|path| text += &format!("  {path}\n"));
    let code = if done.damaged > 0 { exit::DAMAGED } else { exit::DONE };
    Ok(Report { code, ..Report::new(text, &done) })
}

pub(super) fn import(import: &Import, data: &DataDir, config: &Config) -> Result<Report, CliError> {
    let request = Request::Import { files: files(&import.dir, &import.paths, &import.cache)? };
    let Answer::Imported(done) = admin::ask(data, config, &request, false)? else { return Err(admin::unexpected()) };
    let mut rows = vec![
        ("taken", format!("{} paths, {}", done.paths, output::bytes(done.logical_bytes))),
        ("documents", documents(&done.documents)),
        ("there before", done.present.to_string()),
    ];
    if done.repaired > 0 {
        rows.push(("repaired", format!("{} paths that were damaged", done.repaired)));
    }
    rows.push(("refused", done.refused.to_string()));
    let mut text = output::pairs(&rows);
    done.reasons.iter().for_each(|reason| text += &format!("  {reason}\n"));
    let code = if done.refused > 0 { exit::FAILED } else { exit::DONE };
    Ok(Report { code, ..Report::new(text, &done) })
}

fn documents(counts: &DocumentCounts) -> String {
    let DocumentCounts { logs, realisations, build_traces, debug_info } = counts;
    format!("{logs} logs, {} realisations, {debug_info} of debug info", realisations + build_traces)
}

/// Returns what is meant, so that a server understands it, too.
fn files(dir: &Path, paths: &[String], cache: &CacheName) -> Result<Box<FilesRequest>, CliError> {
    let whole = path::absolute(dir).map_err(|source| CliError::Read { path: dir.to_owned(), source })?;
    let dir = whole.into_os_string().into_string().map_err(|_| CliError::NoText { path: dir.to_owned() })?;
    Ok(Box::new(FilesRequest { cache: cache.to_string(), selection: selection(paths)?, dir }))
}

fn selection(paths: &[String]) -> Result<Selection, CliError> {
    if paths.is_empty() {
        return Ok(Selection::All);
    }
    let hash = |text: &String| {
        let base_name = text.rsplit('/').next().unwrap_or_default();
        let hash = StorePath::from_base_name(base_name).map(|path| path.hash()).ok();
        let hash = hash.or_else(|| base_name.parse::<StoreHash>().ok());
        hash.ok_or_else(|| CliError::NoPath { text: text.clone() })
    };
    paths.iter().map(hash).collect::<Result<_, _>>().map(Selection::Closure)
}
