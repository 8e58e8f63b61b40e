//! `firnd rebuild-index`

use clap::Args;
use firn_engine::{Clock, SystemClock};
use serde::Serialize;

use super::{CliError, Report, exit, output};
use crate::admin::fresh_cache;
use crate::config::Config;
use crate::data_dir::{DataDir, DataError, OldIndex, SystemEntropy};

pub(super) const HELP: &str = "\
Packs hold all that the index says of NARs, paths and logs; not caches' settings and keys, tokens, pins and
retention: they are kept from the present index if it can be read. If it can't, or with --without-old, caches are
made anew under the names found: private, with fresh keys and no tokens. Paths keep the signatures that they have.

No server may run. The new index is made beside the present one and takes its place at the end, at once.
Chunks are not read: run `firnd scrub` afterwards.

Exit code 8: paths are lost, or packs can't be read.";

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
    lost: u64,
    lost_paths: Vec<String>,
}

pub(super) fn run(rebuild: &Rebuild, data: &DataDir, config: &Config) -> Result<Report, CliError> {
    if !data.is_there()? {
        return Err(CliError::NoStore { data: data.root().to_owned() });
    }
    let failed = |error: firn_engine::Error| CliError::Store { detail: crate::error_chain(&error) };
    let lock = data.lock("firnd rebuild-index")?;
    let (old, why_not) = match data.open_old_index(rebuild.without_old)? {
        OldIndex::Open(old) => (Some(old), None),
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
    data.swap_index(is_kept)?;
    let store = data.open_store(lock, config)?;
    store.engine.learn(rebuild.lineage).map_err(failed)?;
    store.engine.close().map_err(failed)?;
    store.release();
    let view = View {
        kept_from_old: is_kept,
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
        lost: done.lost,
        lost_paths: done.lost_paths,
    };
    let mut report = report(&view);
    report.notes = notes(&view, data, why_not.as_ref());
    Ok(report)
}

fn report(view: &View) -> Report {
    let mut text = output::pairs(&[
        ("packs", format!("{}, {} of them given a footer", view.packs, view.sealed_packs)),
        ("chunks", view.chunks.to_string()),
        ("recipes", view.recipes.to_string()),
        ("NARs", view.nars.to_string()),
        ("paths", view.paths.to_string()),
        ("documents", view.documents.to_string()),
        ("packs not readable", view.unreadable_packs.len().to_string()),
        ("damaged frames", view.damaged_frames.to_string()),
        ("paths lost", view.lost.to_string()),
    ]);
    for line in view.unreadable_packs.iter().chain(&view.lost_paths) {
        text += &format!("  {line}\n");
    }
    let is_damaged = view.lost > 0 || !view.unreadable_packs.is_empty();
    Report { code: if is_damaged { exit::DAMAGED } else { exit::DONE }, ..Report::new(text, view) }
}

fn notes(view: &View, data: &DataDir, why_not: Option<&DataError>) -> String {
    if view.kept_from_old {
        return "kept from the earlier index: caches with their keys, tokens, pins, retention and last uses, who pushed \
                what, usage counters\n"
            .to_owned();
    }
    let mut text = match why_not {
        Some(error) => format!(
            "the earlier index can't be read ({}); it lies in {}\n",
            crate::error_chain(error),
            data.old_index().display()
        ),
        None => String::new(),
    };
    text += &format!(
        "made anew, private, with fresh keys and default settings: {}\n\
         there are no tokens: make new ones with `firnd token create`\n\
         lost with the earlier index: pins, retention and quotas, last uses, who pushed what and when, usage counters\n\
         paths keep the signatures that they have; give clients the new public keys too (`firnd cache show`)\n",
        if view.new_caches.is_empty() { "no caches".to_owned() } else { view.new_caches.join(", ") }
    );
    text
}
