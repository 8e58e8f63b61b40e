//! What only a disk can get wrong: left-over files, locks, and devices that are full.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use firn_storage::{Disk, Error, Storage};

/// Names the folder that the test is to fill, when it runs as its own child.
const FOLDER: &str = "FIRN_TEST_SMALL_FOLDER";

#[test]
fn one_at_a_time() {
    let root = tempfile::tempdir().unwrap();
    let disk = Disk::open(root.path()).unwrap();
    assert!(matches!(Disk::open(root.path()), Err(Error::Locked { .. })));
    drop(disk);
    Disk::open(root.path()).unwrap();
}

#[test]
fn opening_removes_what_an_interrupted_put_left() {
    let root = tempfile::tempdir().unwrap();
    drop(Disk::open(root.path()).unwrap());
    fs::write(root.path().join(".tmp/0"), "half of an obj").unwrap();
    let disk = Disk::open(root.path()).unwrap();
    assert_eq!(fs::read_dir(root.path().join(".tmp")).unwrap().count(), 0);
    disk.put("a/b", b"whole").unwrap();
    assert_eq!(fs::read_dir(root.path().join(".tmp")).unwrap().count(), 0);
    assert_eq!(disk.read("a/b", 0, 5).unwrap(), "whole");
}

#[test]
fn objects_outlive_the_process() {
    let root = tempfile::tempdir().unwrap();
    {
        let disk = Disk::open(root.path().join("made/when/needed")).unwrap();
        disk.put("put", b"put").unwrap();
        let mut writer = disk.create("packs/ab/1").unwrap();
        writer.append(&[b"appended"]).unwrap();
        writer.sync().unwrap();
    }
    let disk = Disk::open(root.path().join("made/when/needed")).unwrap();
    let listed = disk.list("", None, 9).unwrap();
    let listed: Vec<_> = listed.iter().map(|entry| (entry.name.as_str(), entry.len)).collect();
    assert_eq!(listed, [("packs/ab/1", 8), ("put", 3)]);
}

#[test]
fn foreign_files_are_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let disk = Disk::open(root.path()).unwrap();
    disk.put("packs/a", b"x").unwrap();
    fs::create_dir(root.path().join("lost+found")).unwrap();
    fs::write(root.path().join("packs/README"), "not an object").unwrap();
    fs::write(root.path().join("packs/.nfs0001"), "nor is this").unwrap();
    std::os::unix::fs::symlink("a", root.path().join("packs/link")).unwrap();
    let listed = disk.list("", None, 9).unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    drop(disk);
    Disk::open(root.path()).unwrap();
    assert!(root.path().join("packs/README").exists());
}

#[test]
fn nobody_else_can_read_objects() {
    let root = tempfile::tempdir().unwrap();
    let disk = Disk::open(root.path().join("store")).unwrap();
    disk.put("folder/put", b"x").unwrap();
    drop(disk.create("folder/created").unwrap());
    for name in ["", "folder", "folder/put", "folder/created"] {
        let mode = fs::metadata(root.path().join("store").join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}: {mode:o}");
    }
}

#[test]
fn a_deleted_object_gives_its_space_back() {
    let root = tempfile::tempdir().unwrap();
    let disk = Disk::open(root.path()).unwrap();
    disk.put("a", b"x").unwrap();
    disk.read("a", 0, 1).unwrap();
    disk.delete("a").unwrap();
    let path = root.path().to_str().unwrap();
    let open = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let held: Vec<_> = open.filter(|file| file.to_string_lossy().contains(&format!("{path}/a"))).collect();
    assert_eq!(held, Vec::<PathBuf>::new());
}

#[test]
fn a_relative_folder_is_made() {
    let root = tempfile::tempdir().unwrap();
    let up = std::env::current_dir().unwrap().components().skip(1).map(|_| "..").collect::<PathBuf>();
    let relative = up.join(root.path().strip_prefix("/").unwrap());
    Disk::open(relative.join("a/b")).unwrap().put("x", b"x").unwrap();
    assert!(root.path().join("a/b/x").exists());
}

/// Writes to a folder that has room for some of it until it fails, and checks that what failed left nothing.
fn fill(folder: &Path, failed: fn(&Error) -> bool) {
    let disk = Disk::open(folder).unwrap();
    let mut writer = disk.create("packs/pack").unwrap();
    let block = [7; 100_000];
    let error = loop {
        match writer.append(&[&block, &block]) {
            Ok(_) => assert!(writer.len() < 64 << 20, "the folder was to be small"),
            Err(error) => break error,
        }
    };
    assert!(failed(&error), "{error:?}");
    let len = writer.len();
    assert_eq!(len % 200_000, 0, "an append is all or nothing");
    assert_eq!(disk.len("packs/pack").unwrap(), len, "and is cut back at once");

    let large = vec![8; 1 << 20];
    let error = disk.put("large", &large).expect_err("there is no room");
    assert!(failed(&error), "{error:?}");
    assert!(matches!(disk.len("large"), Err(Error::NotFound { .. })));
    assert_eq!(fs::read_dir(folder.join(".tmp")).unwrap().count(), 0, "the temporary file is gone");

    // What still fits, fits: the writer was not harmed.
    assert_eq!(writer.append(&[b"small"]).unwrap(), len);
    writer.sync().unwrap();
    let bytes = disk.read("packs/pack", 0, usize::try_from(writer.len()).unwrap()).unwrap();
    assert!(bytes.ends_with(b"small") && bytes[..bytes.len() - 5].iter().all(|byte| *byte == 7));
    disk.delete("packs/pack").unwrap();
}

/// Runs a test of this file once more, in a shell that first does `setup`, with `FOLDER` set. Returns what it
/// said if it failed.
fn run_again(test: &str, setup: &str, folder: &Path) -> Result<(), String> {
    let output = Command::new("sh")
        .args(["-c", &format!("{setup}\nexec \"$0\" --exact \"$1\" --nocapture")])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env(FOLDER, folder)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&said).into_owned()) }
}

/// The limit on a file's size makes the kernel write a part and fail then, with no rights needed.
#[test]
fn a_write_that_stops_in_the_middle_leaves_nothing() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return fill(
            Path::new(&folder),
            |error| matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::FileTooLarge),
        );
    }
    let root = tempfile::tempdir().unwrap();
    // 500 KiB or 1000 KiB, as the shell counts blocks of 512 or 1024 bytes.
    let setup = "trap '' XFSZ; ulimit -f 1000";
    run_again("a_write_that_stops_in_the_middle_leaves_nothing", setup, root.path()).unwrap();
}

#[test]
fn a_full_device_leaves_nothing() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return fill(Path::new(&folder), |error| matches!(error, Error::Full { .. }));
    }
    let root = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=1m tmpfs \"$FIRN_TEST_SMALL_FOLDER\"";
    // In a mount namespace of its own, so that nothing stays mounted.
    let can = |flags: &str| {
        let script = format!("unshare {flags} sh -c '{mount}'");
        let status = Command::new("sh").args(["-c", &script]).env(FOLDER, root.path()).output();
        status.is_ok_and(|output| output.status.success())
    };
    let Some(flags) = ["-m", "-rm"].into_iter().find(|flags| can(flags)) else {
        eprintln!("SKIPPED a_full_device_leaves_nothing: neither root nor a user namespace may mount a tmpfs here");
        return;
    };
    let setup = format!("exec unshare {flags} sh -c '{mount} && exec \"$0\" --exact \"$1\" --nocapture' \"$0\" \"$1\"");
    run_again("a_full_device_leaves_nothing", &setup, root.path()).unwrap();
}
