//! `firnd backup` and `firnd restore-backup`

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use firn_engine::{Clock, SystemClock};

use super::admin::{self, Reached};
use super::{CliError, Report, output};
use crate::admin::{Answer, BackupView, Request, socket};
use crate::backup::{self, BackupError, Created, Source};
use crate::config::Config;
use crate::data_dir::DataDir;

/// How often the server is told that the backup goes on.
const RENEW_EVERY: Duration = Duration::from_secs(30);

/// How long to wait for garbage collection to make a pause.
const BUSY_WAIT: Duration = Duration::from_secs(600);

pub(super) const HELP: &str = "\
DIR gets all packs and a copy of the index, keys and tokens included: keep it as safe as the data directory.
Later runs copy only packs that are new. The server may run meanwhile; nothing is deleted from the store until
the backup is done. A run that is interrupted leaves the earlier backup as it was.

Examples:
  firnd backup /mnt/backup/firn            make it, or bring it up to date
  firnd backup /mnt/backup/firn --verify   read all of it, and compare
  firnd restore-backup /mnt/backup/firn --data /var/lib/firnd";

#[derive(Debug, Args)]
pub(super) struct Backup {
    /// The folder to keep it in
    dir: PathBuf,
    /// Give packs a second name instead of copying them, where DIR is on the store's own file system
    #[arg(long, conflicts_with = "verify")]
    link: bool,
    /// Copy nothing: read the backup and compare every byte with what was written
    #[arg(long)]
    verify: bool,
}

#[derive(Debug, Args)]
pub(super) struct RestoreBackup {
    /// The folder that `firnd backup` made
    dir: PathBuf,
}

pub(super) fn run(backup: &Backup, data: &DataDir) -> Result<Report, CliError> {
    if backup.verify {
        let found = backup::verify(&backup.dir)?;
        let text = output::pairs(&[
            ("backup", "good".to_owned()),
            ("taken", output::time(found.taken_at)),
            ("files", found.files.to_string()),
            ("size", output::bytes(found.bytes)),
        ]);
        return Ok(Report::new(text, &found));
    }
    admin::need_store(data)?;
    refuse_inside(&backup.dir, data)?;
    let until = Instant::now() + BUSY_WAIT;
    let mut is_told = false;
    let done = loop {
        match admin::reach(data, &Request::BackupBegin, "firnd backup")? {
            Reached::Server(reply) => match *reply {
                Ok(answer) => break beside_server(backup, data, &view(answer)?)?,
                Err(failure) if failure.is_busy() && Instant::now() < until => {
                    if !std::mem::replace(&mut is_told, true) {
                        let minutes = BUSY_WAIT.as_secs() / 60;
                        eprintln!(
                            "firnd: another backup or a collection is under way: waiting, {minutes} minutes at most"
                        );
                    }
                    thread::sleep(Duration::from_secs(1));
                }
                Err(failure) => return Err(failure.into()),
            },
            Reached::Here(lock) => {
                let index = data.backup_index();
                data.remove_backup_index()?;
                data.copy_index(&index)?;
                let mut keep = || Ok(());
                let taken_at = SystemClock.now();
                let mut source = Source { index: &index, store: &data.store(), taken_at, keep: &mut keep };
                let done = backup::create(&mut source, &backup.dir, backup.link);
                data.remove_backup_index()?;
                drop(lock);
                break done?;
            }
        }
    };
    Ok(report(&done))
}

/// Refuses a folder in the data directory: what takes the store takes its backup along.
fn refuse_inside(folder: &Path, data: &DataDir) -> Result<(), CliError> {
    // It need not be there yet, and its name may lead there by links.
    let there = std::path::absolute(folder).ok().and_then(|path| {
        path.ancestors().find_map(|folder| Some(folder.canonicalize().ok()?.join(path.strip_prefix(folder).ok()?)))
    });
    match (there, data.root().canonicalize()) {
        (Some(folder), Ok(root)) if folder.starts_with(&root) => Err(BackupError::Foreign {
            path: folder,
            detail: format!("it lies in the data directory {}, and would be lost with it", root.display()),
        }
        .into()),
        _ => Ok(()),
    }
}

/// Copies while a server runs that keeps everything for us.
fn beside_server(backup: &Backup, data: &DataDir, view: &BackupView) -> Result<Created, CliError> {
    let mut renewed = Instant::now();
    let mut keep = || {
        if renewed.elapsed() < RENEW_EVERY {
            return Ok(());
        }
        renewed = Instant::now();
        let released = |detail: String| BackupError::Released { detail };
        match socket::ask(data, &Request::BackupRenew { id: view.id.clone() }) {
            Ok(Some(Ok(_))) => Ok(()),
            Ok(Some(Err(failure))) => Err(released(failure.to_string())),
            Ok(None) => Err(released("the server ended; run the backup again".to_owned())),
            Err(error) => Err(released(crate::error_chain(&error))),
        }
    };
    let mut source = Source { index: &view.index, store: &data.store(), taken_at: view.taken_at, keep: &mut keep };
    let done = backup::create(&mut source, &backup.dir, backup.link);
    // If this does not reach it, the server lets go by itself after a while.
    let ended = socket::ask(data, &Request::BackupEnd { id: view.id.clone() });
    let done = done?;
    ended?;
    Ok(done)
}

/// `firnd restore-backup`
pub(super) fn restore(arguments: &RestoreBackup, data: &DataDir, config: &Config) -> Result<Report, CliError> {
    backup::find(&arguments.dir)?;
    let lock = data.lock("firnd restore-backup")?;
    if data.exists()? {
        return Err(CliError::StoreExists { data: data.root().to_owned() });
    }
    let done = backup::restore(&arguments.dir, data)?;
    // As after a crash: what was being written when the backup was taken gets its end.
    let failed = |error: firn_engine::Error| CliError::Store { detail: crate::error_chain(&error) };
    let store = data.open_store(lock, config)?;
    store.engine.close().map_err(failed)?;
    store.release();
    let text = output::pairs(&[
        ("put back", data.root().display().to_string()),
        ("as of", output::time(done.taken_at)),
        ("files", done.files.to_string()),
        ("size", output::bytes(done.bytes)),
    ]);
    Ok(Report::new(text, &done))
}

fn view(answer: Answer) -> Result<BackupView, CliError> {
    match answer {
        Answer::Backup(view) => Ok(view),
        _ => Err(admin::unexpected()),
    }
}

fn report(done: &Created) -> Report {
    let text = output::pairs(&[
        ("packs", format!("{}, {} new", done.packs, done.new_packs)),
        ("size", output::bytes(done.bytes)),
        ("copied", output::bytes(done.copied_bytes)),
        ("removed", format!("{} files", done.removed)),
    ]);
    Report::new(text, done)
}
