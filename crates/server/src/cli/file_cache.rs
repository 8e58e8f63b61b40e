//! `firnd export` and `firnd import`

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use firn_index::CacheName;
use firn_nix::{StoreHash, StorePath};

use super::{CliError, Report, exit, output};
use crate::config::Config;
use crate::data_dir::{DataDir, OpenStore};
use crate::file_cache::{self, Exported, Imported, Selection};
use crate::http::codec::Codec;

pub(super) const EXPORT_HELP: &str = "\
Stock Nix reads DIR as file://DIR. Signatures are the cache's, so that its public key verifies them.
What is in DIR already is left alone. While the server runs, use Nix:
  nix copy --from http://SERVER/CACHE --to 'file:///DIR?compression=zstd' PATH…

Examples:
  firnd export /mnt/usb/cache --cache main
  firnd export /mnt/usb/cache --cache main --compression xz /nix/store/…-hello-2.12";

pub(super) const IMPORT_HELP: &str = "\
DIR is what `nix copy --to file://DIR` or `firnd export` wrote. Everything is checked as at an upload, and the
cache's keys sign. What the cache has already is left alone. While the server runs, use Nix:
  nix copy --from file:///DIR --to http://SERVER/CACHE PATH…

Example:
  firnd import /mnt/usb/cache --cache main";

/// Compressions that every Nix reads.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Compression {
    Zstd,
    Xz,
    None,
}

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
    let selection = selection(&export.paths)?;
    let codec = match export.compression {
        Compression::Zstd => Codec::Zstd,
        Compression::Xz => Codec::Xz,
        Compression::None => Codec::Identity,
    };
    let done = with_store(data, config, "firnd export", |store| {
        Ok(file_cache::export(&store.engine, &export.cache, &selection, codec, &export.dir)?)
    })?;
    let mut text = output::pairs(&[
        ("written", format!("{} paths, {}", done.paths, output::bytes(done.logical_bytes))),
        ("files", output::bytes(done.file_bytes)),
        ("there before", done.present.to_string()),
        ("references elsewhere", done.absent_references.to_string()),
        ("damaged, left out", done.damaged.to_string()),
    ]);
    done.examples.iter().for_each(|path| text += &format!("  {path}\n"));
    let code = if done.damaged > 0 { exit::DAMAGED } else { exit::DONE };
    Ok(Report { code, ..Report::new(text, &done as &Exported) })
}

pub(super) fn import(import: &Import, data: &DataDir, config: &Config) -> Result<Report, CliError> {
    let selection = selection(&import.paths)?;
    let done = with_store(data, config, "firnd import", |store| {
        Ok(file_cache::import(&store.engine, &import.cache, &selection, &import.dir)?)
    })?;
    let mut text = output::pairs(&[
        ("taken", format!("{} paths, {}", done.paths, output::bytes(done.logical_bytes))),
        ("there before", done.present.to_string()),
        ("refused", done.refused.to_string()),
    ]);
    done.reasons.iter().for_each(|reason| text += &format!("  {reason}\n"));
    let code = if done.refused > 0 { exit::FAILED } else { exit::DONE };
    Ok(Report { code, ..Report::new(text, &done as &Imported) })
}

/// Opens the store, does the work, and closes it in good order whatever came of it.
fn with_store<T>(
    data: &DataDir,
    config: &Config,
    name: &str,
    work: impl FnOnce(&OpenStore) -> Result<T, CliError>,
) -> Result<T, CliError> {
    if !data.exists() {
        return Err(CliError::NoStore { data: data.root().to_owned() });
    }
    let store = data.open_store(data.lock(name)?, config)?;
    let done = work(&store);
    let closed = store.engine.close();
    store.release();
    let done = done?;
    closed.map_err(|error| CliError::Store { detail: crate::error_chain(&error) })?;
    Ok(done)
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
