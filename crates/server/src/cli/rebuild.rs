//! `firnd rebuild-index`

use std::sync::Arc;

use clap::Args;
use firn_engine::{Clock, SystemClock};
use firn_index::Meta;
use serde::Serialize;

use super::{CliError, Report, exit, output};
use crate::admin::fresh_cache;
use crate::config::Config;
use crate::data_dir::{DataDir, DataError, OldIndex, SystemEntropy};

pub(super) const HELP: &str = "\
Packs hold all that the index says of NARs, paths and logs; not caches' settings and keys, tokens, pins and
retention: they are kept from the present index, or from what can be read of it, and so are paths of which packs do not
tell any more. If nothing can, or with --without-old, caches are made anew under the names found: private, with fresh
keys and no tokens. Paths keep the signatures that they have.

No server may run. The new index is made beside the present one and takes its place at the end, at once.
Chunks are not read: run `firnd scrub` afterwards.

Exit code 8: paths are lost, packs can't be read or are missing, frames are damaged, or the present index can't be read
as a whole; it is kept then, as index.old.";

#[derive(Debug, Args)]
pub(super) struct Rebuild {
    /// Take nothing from the present index
    #[arg(long)]
    without_old: bool,
    /// Also note which files are like which, so that later uploads are as small as before: reads everything
    #[arg(long)]
    lineage: bool,
}

/// What was done, as JSON shows it.
#[derive(Debug, Serialize)]
struct View {
    kept_from_old: bool,
    old_is_damaged: bool,
    /// What of the earlier index could not be read, whole or in part.
    not_read: Vec<&'static str>,
    new_caches: Vec<String>,
    packs: u64,
    sealed_packs: u64,
    unreadable_packs: Vec<String>,
    damaged_frames: u64,
    chunks: u64,
    recipes: u64,
    nars: u64,
    paths: u64,
    documents: u64,
    rows_from_old: u64,
    unrecorded_rows: u64,
    incomplete_recipes: u64,
    lost: u64,
    lost_paths: Vec<String>,
    /// Where the earlier index lies, if something is wrong or it could not be read.
    old_index: Option<String>,
}

pub(super) fn run(rebuild: &Rebuild, data: &DataDir, config: &Config) -> Result<Report, CliError> {
    if !data.is_there()? {
        return Err(CliError::NoStore { data: data.root().to_owned() });
    }
    let failed = |error: firn_engine::Error| CliError::Store { detail: crate::error_chain(&error) };
    let lock = data.lock("firnd rebuild-index")?;
    let mut damaged = None;
    let (old, why_not) = match data.open_old_index(rebuild.without_old)? {
        OldIndex::Open(old) => (Some(old), None),
        OldIndex::Damaged(old, error) => {
            damaged = Some(Arc::clone(&old));
            (Some(old as Arc<dyn Meta>), Some(error))
        }
        OldIndex::None => (None, None),
        OldIndex::Unreadable(error) => (None, Some(error)),
    };
    let (is_kept, now) = (old.is_some(), SystemClock.now());
    let mut new_caches = Vec::new();
    let mut problem = None;
    let done = data.rebuild_index(old, &mut |name| match fresh_cache(name, now, &SystemEntropy) {
        Ok(row) => {
            new_caches.push(name.to_string());
            row
        }
        Err(failure) => {
            problem = Some(failure);
            firn_index::CacheRow::new(now)
        }
    })?;
    if let Some(failure) = problem {
        return Err(failure.into());
    }
    let not_read = damaged.map(|old| old.losses()).unwrap_or_default();
    let is_damaged = done.is_damaged() || why_not.is_some();
    let old_index = data.swap_index(!is_kept || is_damaged)?;
    let store = data.open_store(lock, config)?;
    store.engine.learn(rebuild.lineage).map_err(failed)?;
    store.engine.close().map_err(failed)?;
    store.release();
    let view = View {
        kept_from_old: is_kept,
        old_is_damaged: why_not.is_some(),
        not_read,
        new_caches,
        packs: done.packs,
        sealed_packs: done.sealed,
        unreadable_packs: done.unreadable,
        damaged_frames: done.damaged_frames,
        chunks: done.chunks,
        recipes: done.recipes,
        nars: done.nars,
        paths: done.paths,
        documents: done.documents,
        rows_from_old: done.kept,
        unrecorded_rows: done.unrecorded,
        incomplete_recipes: done.incomplete,
        lost: done.lost,
        lost_paths: done.lost_paths,
        old_index: old_index.map(|path| path.display().to_string()),
    };
    let mut report = report(&view, is_damaged);
    report.notes = notes(&view, why_not.as_ref());
    Ok(report)
}

fn report(view: &View, is_damaged: bool) -> Report {
    let mut text = output::pairs(&[
        ("packs", format!("{}, {} of them given a footer", view.packs, view.sealed_packs)),
        ("chunks", view.chunks.to_string()),
        ("recipes", view.recipes.to_string()),
        ("NARs", view.nars.to_string()),
        ("paths", view.paths.to_string()),
        ("documents", view.documents.to_string()),
        ("rows that only the earlier index had", view.rows_from_old.to_string()),
        ("packs not readable", view.unreadable_packs.len().to_string()),
        ("damaged frames", view.damaged_frames.to_string()),
        ("recipes whose packs are missing", view.incomplete_recipes.to_string()),
        ("paths lost", view.lost.to_string()),
    ]);
    for line in view.unreadable_packs.iter().chain(&view.lost_paths) {
        text += &format!("  {line}\n");
    }
    Report { code: if is_damaged { exit::DAMAGED } else { exit::DONE }, ..Report::new(text, view) }
}

fn notes(view: &View, why_not: Option<&DataError>) -> String {
    let mut text = String::new();
    if view.damaged_frames > 0 && !view.kept_from_old {
        text += "what the damaged frames held is lost, and nothing tells what that was: paths may be missing without being \
                 counted\n";
    }
    if view.incomplete_recipes > 0 {
        text += "what needs missing packs answers as missing until it is uploaded again\n";
    }
    if view.unrecorded_rows > 0 {
        text +=
            "there was no room to write to packs what only the earlier index had: make room, and run this once more\n";
    }
    match why_not {
        Some(error) if view.kept_from_old => text += &partly_read(error, &view.not_read),
        Some(error) => text += &format!("the earlier index can't be read ({})\n", crate::error_chain(error)),
        None => {}
    }
    if let Some(folder) = &view.old_index {
        text += &format!("the earlier index lies in {folder}: remove it when you need it no more\n");
    }
    if !view.new_caches.is_empty() || !view.kept_from_old {
        text += &made_anew(view);
    }
    if view.kept_from_old {
        text += "kept from the earlier index: caches with their keys, tokens, pins, retention and last uses, who pushed \
                 what, usage counters\n";
    }
    text
}

fn partly_read(error: &DataError, not_read: &[&str]) -> String {
    let mut text =
        format!("the earlier index is damaged ({}), and was read as far as it can be\n", crate::error_chain(error));
    if !not_read.is_empty() {
        text += &format!(
            "of this some or all could not be read, and is missing unless packs tell of it: {}\n",
            not_read.join(", ")
        );
    }
    text + "what was changed there shortly before the damage may be as it was before the change: see whether a token that was \
         revoked is there again (`firnd token list`), and at caches, pins and rules (`firnd cache list`, `firnd pin list`)\n"
}

fn made_anew(view: &View) -> String {
    let names = if view.new_caches.is_empty() { "no caches".to_owned() } else { view.new_caches.join(", ") };
    let text = format!("made anew, private, with fresh keys and default settings: {names}\n");
    if view.kept_from_old {
        return text;
    }
    text + "there are no tokens: make new ones with `firnd token create`\n\
         lost with the earlier index: pins, retention and quotas, last uses, who pushed what and when, usage counters\n\
         paths keep the signatures that they have; give clients the new public keys too (`firnd cache show`)\n"
}
