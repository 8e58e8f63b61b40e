//! `firnd gc`, `firnd explain`, `firnd path …`, `firnd pin …`

use clap::{Args, Subcommand};
use firn_engine::{Clock, SystemClock};

use super::{CliError, Report, admin, output};
use crate::admin::{Answer, CacheFatesView, ExplainView, FateView, GcRequest, GcView, PacksView, PinView, Request};
use crate::config::{Config, Size, Span};
use crate::data_dir::DataDir;

pub(super) const GC_HELP: &str = "\
Removes the paths that no rule of their cache keeps (`firnd cache set` makes rules; without any, a cache keeps
everything), and gives back the bytes that nobody needs: packs are condemned, doomed once the uploads that may have
been told of them are over, and deleted after a grace. Packs of which only a part is needed are repacked, under
a budget. It may be interrupted at any time; the next one goes on. A running server collects on its own every
gc.interval, and a collection that it does for this command goes on when the command is interrupted.

--dry-run counts the whole store: it reads every row of the index, every recipe, and the list of every pack.

Examples:
  firnd gc --dry-run                what would go, how many bytes come back, and why
  firnd gc --max-repack '0 B'       without repacking
  firnd gc --json | jq .deleted.stored_bytes";

#[derive(Debug, Args)]
pub(super) struct Gc {
    /// Change nothing; say what would go, and why the largest paths go or stay
    #[arg(long)]
    dry_run: bool,
    /// How long doomed packs stay [default: gc.grace of the configuration]
    #[arg(long, value_name = "DURATION")]
    grace: Option<Span>,
    /// Bytes that repacking reads and writes, at most; '0 B' for none [default: gc.repack-bytes]
    #[arg(long, value_name = "SIZE")]
    max_repack: Option<Size>,
    /// Bytes that repacking reads and writes in a second, at most [default: gc.repack-rate]
    #[arg(long, value_name = "SIZE", value_parser = super::bounds::moving)]
    rate: Option<Size>,
    /// End the repacking of the collection that the running server is at
    #[arg(long, conflicts_with_all = ["dry_run", "grace", "max_repack", "rate"])]
    stop: bool,
}

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The path, or its store hash
    path: String,
    /// The cache
    #[arg(long, default_value = "main")]
    cache: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum PathCommand {
    /// Delete a path that nothing refers to; its bytes come back with garbage collection
    Delete {
        /// The path, or its store hash
        path: String,
        /// The cache
        #[arg(long, default_value = "main")]
        cache: String,
        /// Delete everything that refers to it as well
        #[arg(long)]
        referrers: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum PinCommand {
    /// Keep a path and everything that it refers to; a pin of that name is moved
    Add {
        /// The pin's name
        name: String,
        /// The path, or its store hash
        path: String,
        /// The cache
        #[arg(long, default_value = "main")]
        cache: String,
        /// When the pin stops to count, from now on, as in '30 d' [default: never]
        #[arg(long, value_name = "DURATION", value_parser = super::bounds::seconds)]
        expires: Option<Span>,
    },
    /// List the pins of a cache
    List {
        /// The cache
        #[arg(long, default_value = "main")]
        cache: String,
    },
    /// Remove a pin; what it kept stays as long as other rules keep it
    Remove {
        /// The pin's name
        name: String,
        /// The cache
        #[arg(long, default_value = "main")]
        cache: String,
    },
}

pub(super) fn gc(arguments: Gc, data: &DataDir, config: &Config) -> Result<Report, CliError> {
    if arguments.stop {
        let Answer::CollectionStopped { was_running } = admin::ask(data, config, &Request::GcStop, false)? else {
            return Err(admin::unexpected());
        };
        let text = if was_running { "told it to repack no more\n" } else { "no collection is under way\n" };
        return Ok(Report::new(text, &serde_json::json!({ "was_running": was_running })));
    }
    let request = Request::Gc(GcRequest {
        dry_run: arguments.dry_run,
        grace_seconds: arguments.grace.map(|span| span.0.as_secs()),
        repack_bytes: arguments.max_repack.map(|size| size.0),
        bytes_per_second: arguments.rate.map(|size| size.0),
    });
    let Answer::Collected(view) = admin::ask(data, config, &request, false)? else { return Err(admin::unexpected()) };
    Ok(Report::new(gc_text(&view), &*view))
}

pub(super) fn explain(arguments: Explain, data: &DataDir, config: &Config) -> Result<Report, CliError> {
    let request = Request::Explain { cache: arguments.cache, path: arguments.path };
    let Answer::Explained(view) = admin::ask(data, config, &request, false)? else { return Err(admin::unexpected()) };
    Ok(Report::new(explain_text(&view), &*view))
}

pub(super) fn path(command: PathCommand, data: &DataDir, config: &Config) -> Result<Report, CliError> {
    let PathCommand::Delete { path, cache, referrers } = command;
    let request = Request::PathDelete { cache, path, referrers };
    let Answer::PathsDeleted(paths) = admin::ask(data, config, &request, false)? else {
        return Err(admin::unexpected());
    };
    let text = paths.iter().map(|path| format!("deleted {path}\n")).collect::<String>();
    Ok(Report::new(text, &paths))
}

pub(super) fn pin(command: PinCommand, data: &DataDir, config: &Config) -> Result<Report, CliError> {
    let request = match command {
        PinCommand::Add { name, path, cache, expires } => {
            Request::PinAdd { cache, name, path, expires_in: expires.map(|span| span.0.as_secs()) }
        }
        PinCommand::List { cache } => Request::PinList { cache },
        PinCommand::Remove { name, cache } => Request::PinRemove { cache, name },
    };
    match admin::ask(data, config, &request, false)? {
        Answer::Pin(view) => Ok(Report::new(format!("pinned {} as '{}'\n", view.path, view.name), &view)),
        Answer::PinRemoved(view) => Ok(Report::new(format!("removed the pin '{}'\n", view.name), &view)),
        Answer::Pins(views) => {
            let now = SystemClock.now();
            let row = |view: &PinView| {
                let over = |at: u64| if at <= now { " (over)" } else { "" };
                let expires = |at: u64| format!("{}{}", output::time(at), over(at));
                let expires = view.expires_at.map_or_else(|| "never".to_owned(), expires);
                vec![view.name.clone(), view.path.clone(), output::time(view.pinned_at), expires, view.by.clone()]
            };
            let table =
                output::table(&["NAME", "PATH", "PINNED", "EXPIRES", "BY"], views.iter().map(row).collect(), &[]);
            let mut report = Report::new(if views.is_empty() { String::new() } else { table }, &views);
            if views.is_empty() {
                "no pins\n".clone_into(&mut report.notes);
            }
            Ok(report)
        }
        _ => Err(admin::unexpected()),
    }
}

fn packs(sum: PacksView) -> String {
    format!("{} in {} packs", output::bytes(sum.stored_bytes), sum.packs)
}

fn gc_text(view: &GcView) -> String {
    let mut text = String::new();
    for fates in &view.caches {
        text.push_str(&fates_text(fates, view.dry_run));
    }
    let mut rows = vec![
        ("NARs", view.nars.to_string()),
        ("documents", view.documents.to_string()),
        ("recipes", view.recipes.to_string()),
    ];
    if view.dry_run {
        rows.push(("free packs", packs(view.condemned)));
    } else {
        rows.push(("condemned", packs(view.condemned)));
        rows.push(("doomed", packs(view.doomed)));
        rows.push(("deleted", packs(view.deleted)));
    }
    rows.push((
        "waiting",
        format!("{} condemned, {} doomed", packs(view.backlog_condemned), packs(view.backlog_doomed)),
    ));
    if view.failed.packs > 0 {
        rows.push(("failed", packs(view.failed)));
    }
    if view.sparse.packs > 0 {
        let dead = output::bytes(view.sparse_dead_bytes);
        rows.push(("sparse", format!("{}, {dead} of these needed by nothing", packs(view.sparse))));
    }
    let repack = &view.repack;
    if repack.packs > 0 {
        let (read, written) = (output::bytes(repack.read_bytes), output::bytes(repack.written_bytes));
        rows.push(("repacked", format!("{} emptied: {read} read, {written} written", packs(repack.emptied))));
    }
    rows.extend(repack.problem.iter().map(|problem| ("not repacked", problem.clone())));
    if view.spared_bytes > 0 {
        rows.push(("not sparse", format!("{} that nothing needs stay in packs", output::bytes(view.spared_bytes))));
    }
    if view.lost_record_frames > 0 {
        let frames = view.lost_record_frames;
        rows.push(("records lost", format!("{frames} frames: the index has what they said; take a backup")));
    }
    let word = if view.dry_run { "comes back" } else { "is to come" };
    rows.push((word, comes_back(view)));
    text.push_str(&output::pairs(&rows));
    for stuck in &view.stuck {
        text.push_str(&format!("pack {} stays ({}): {}\n", stuck.pack, output::bytes(stuck.stored_bytes), stuck.why));
    }
    text
}

fn comes_back(view: &GcView) -> String {
    let mut text = output::bytes(view.reclaimable_bytes);
    if view.record_bytes > 0 {
        text.push_str(&format!(", and what counts no more of {} of records", output::bytes(view.record_bytes)));
    }
    text
}

fn fates_text(fates: &CacheFatesView, dry_run: bool) -> String {
    let goes = if dry_run { "would go" } else { "went" };
    let mut text = format!(
        "{}: {} paths {goes} ({} of NARs), {} stay\n",
        fates.cache,
        fates.removed_paths,
        output::bytes(fates.removed_logical_bytes),
        fates.kept_paths
    );
    if fates.rescued_paths > 0 {
        text.push_str(&format!("  {} of these were asked for at the last moment\n", fates.rescued_paths));
    }
    for (word, list) in [("goes", &fates.largest_removed), ("stays", &fates.largest_kept)] {
        for FateView { path, nar_size, alone_bytes, why, .. } in list.iter().filter(|_| dry_run) {
            let alone = alone_bytes.map_or_else(String::new, |bytes| format!(" ({} its own)", output::bytes(bytes)));
            text.push_str(&format!("  {word}  {:>10}  {path}{alone}: {why}\n", output::bytes(*nar_size)));
        }
    }
    text
}

fn explain_text(view: &ExplainView) -> String {
    let fate = &view.fate;
    let by = match &view.token {
        Some(token) => format!("{} (token {token})", view.builder),
        None => view.builder.clone(),
    };
    let mut rows = vec![
        ("path", fate.path.clone()),
        ("cache", view.cache.clone()),
        ("NAR", format!("{} ({})", view.nar_hash, output::bytes(fate.nar_size))),
        ("here since", output::time(fate.committed_at)),
        ("pushed by", by),
        ("last used", output::time(fate.used_at)),
        ("asked for or pushed again", view.asked_at.map_or_else(|| "never".to_owned(), output::time)),
        (if fate.stays { "stays" } else { "goes" }, fate.why.clone()),
    ];
    rows.extend(view.deriver.iter().map(|deriver| ("deriver", deriver.clone())));
    if !view.restorable {
        rows.push(("damaged", "its NAR can't be restored: push it again".to_owned()));
    }
    rows.extend(view.pins.iter().map(|pin| ("pinned by", pin.clone())));
    rows.push(("references", view.references.to_string()));
    rows.push(("referrers", view.referrer_count.to_string()));
    rows.extend(view.referrers.iter().map(|path| ("", path.clone())));
    output::pairs(&rows)
}
