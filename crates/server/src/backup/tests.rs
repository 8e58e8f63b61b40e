use std::fs;
use std::path::Path;

use firn_engine::PackId;
use firn_index::{Commit, Meta, Op, StoreInfo};
use firn_index_rocks::{MetaOptions, RocksMeta};

use tempfile::TempDir;

use super::faults::{self, Failure};
use super::*;
use crate::data_dir::DataDir;

/// A store on the disk with packs of made-up bytes: a backup does not look into them.
struct Store {
    folder: TempDir,
    data: DataDir,
}

impl Store {
    fn new() -> Self {
        // In memory, where the system has such a place: what is tried is no disk.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap();
        let data = DataDir::new(folder.path().join("data"));
        let store = Self { folder, data };
        let info = StoreInfo { format_version: 1, chunker: "c".to_owned(), created_at: 1, store_id: 7 };
        store.with(|meta| meta.set_store_info(&info).unwrap());
        store
    }

    fn with<T>(&self, work: impl FnOnce(&RocksMeta) -> T) -> T {
        work(&RocksMeta::open(&self.data.index(), &MetaOptions::default()).unwrap())
    }

    fn place(&self, pack: u8) -> PathBuf {
        let hex = PackId([pack; 16]).to_string();
        self.data.store().join("packs").join(&hex[..2]).join(hex)
    }

    fn write_pack(&self, pack: u8, bytes: usize, is_sealed: bool) {
        let place = self.place(pack);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, vec![pack; bytes]).unwrap();
        self.with(|meta| {
            let id = PackId([pack; 16]);
            if meta.pack(id).unwrap().is_none() {
                meta.reserve_pack(id, 1).unwrap();
            }
            if is_sealed {
                meta.seal_pack(id, bytes as u64, 0).unwrap();
            } else {
                let ops = vec![Op::PackDurable(id, bytes as u64)];
                meta.commit(1, &[Commit { session: None, packs: Vec::new(), ops }]).unwrap();
            }
        });
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("backup")
    }

    fn backup(&self, link: bool) -> Result<Created, BackupError> {
        self.copy_index();
        self.run(5, link)
    }

    fn copy_index(&self) {
        self.data.remove_backup_index().unwrap();
        self.data.copy_index(&self.data.backup_index()).unwrap();
    }

    /// Makes a backup with the index that was copied last.
    fn run(&self, taken_at: u64, link: bool) -> Result<Created, BackupError> {
        let index = self.data.backup_index();
        let mut source = Source { index: &index, store: &self.data.store(), taken_at, keep: &mut || Ok(()) };
        create(&mut source, &self.root(), link)
    }

    fn restored(&self) -> DataDir {
        let data = DataDir::new(self.folder.path().join("restored"));
        let _ = fs::remove_dir_all(data.root());
        fs::create_dir_all(data.root()).unwrap();
        restore(&self.root(), &data).unwrap();
        data
    }
}

fn packs_below(folder: &Path) -> Vec<String> {
    files::below(folder, "packs").unwrap()
}

#[test]
fn a_second_run_copies_what_is_new_and_removes_what_is_gone() {
    let store = Store::new();
    store.write_pack(1, 1000, true);
    store.write_pack(2, 2000, true);
    let first = store.backup(false).unwrap();
    assert_eq!((first.packs, first.new_packs, first.removed), (2, 2, 0));
    store.write_pack(3, 3000, true);
    store.with(|meta| {
        use firn_index::PackState::{Condemned, Doomed, Live};
        for (from, to) in [(Live, Condemned), (Condemned, Doomed)] {
            assert!(meta.set_pack_state(PackId([1; 16]), from, to, 1).unwrap());
        }
    });
    let second = store.backup(false).unwrap();
    assert_eq!((second.packs, second.new_packs), (2, 1), "{second:?}");
    assert_eq!(packs_below(&store.root()).len(), 2);
    verify(&store.root()).unwrap();
    let data = store.restored();
    assert_eq!(packs_below(&data.store()), packs_below(&store.root()));
    let meta = RocksMeta::open(&data.index(), &MetaOptions::default()).unwrap();
    assert_eq!(meta.store_info().unwrap().unwrap().store_id, 7);
}

#[test]
fn a_pack_that_grows_is_copied_as_far_as_the_index_relies_on_it_and_never_linked() {
    let store = Store::new();
    store.write_pack(1, 1000, false);
    store.copy_index();
    store.write_pack(1, 1200, false);
    store.run(5, true).unwrap();
    store.write_pack(1, 1500, false);
    // What was copied has not grown, and the earlier copy goes when the later one counts.
    assert_eq!(files::below(&store.root(), "tails").unwrap(), [format!("tails/{}.1000", PackId([1; 16]))]);
    store.write_pack(1, 1800, true);
    let last = store.backup(true).unwrap();
    assert_eq!((last.packs, last.new_packs), (1, 1));
    assert_eq!(files::below(&store.root(), "tails").unwrap(), Vec::<String>::new());
    let data = store.restored();
    assert_eq!(fs::read(data.store().join(&packs_below(&data.store())[0])).unwrap(), vec![1; 1800]);
}

#[test]
fn a_pack_of_which_the_index_knows_nothing_yet_is_left_out() {
    let store = Store::new();
    store.with(|meta| meta.reserve_pack(PackId([1; 16]), 1).unwrap());
    store.copy_index();
    store.write_pack(1, 1000, true);
    assert_eq!(store.run(5, false).unwrap().packs, 0);
    verify(&store.root()).unwrap();
    assert_eq!(packs_below(&store.restored().store()), Vec::<String>::new());
}

#[test]
fn every_changed_file_is_found() {
    let store = Store::new();
    store.write_pack(1, 1000, true);
    store.write_pack(2, 1000, false);
    store.backup(false).unwrap();
    let all: Vec<String> = ["packs", "tails", "index-1"]
        .iter()
        .flat_map(|folder| files::below(&store.root(), folder).unwrap())
        .chain(["manifest.jsonl".to_owned()])
        .collect();
    assert!(all.len() > 6, "{all:?}");
    for file in all {
        let path = store.root().join(&file);
        let good = fs::read(&path).unwrap();
        if good.is_empty() {
            continue;
        }
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        for bytes in [bad, good[..good.len() - 1].to_vec(), [&good[..], b"x"].concat()] {
            fs::write(&path, bytes).unwrap();
            assert!(matches!(verify(&store.root()), Err(BackupError::Damaged { .. })), "{file}");
        }
        fs::write(&path, good).unwrap();
    }
    verify(&store.root()).unwrap();
}

#[test]
fn an_interrupted_run_leaves_the_earlier_backup() {
    let store = Store::new();
    store.write_pack(1, 1000, true);
    store.backup(false).unwrap();
    store.write_pack(2, 1000, true);
    let index = store.data.backup_index();
    store.data.remove_backup_index().unwrap();
    store.data.copy_index(&index).unwrap();
    for allowed in 0..3 {
        let mut left = allowed;
        let mut keep = || {
            left -= 1;
            if left < 0 { Err(BackupError::Released { detail: "gone".to_owned() }) } else { Ok(()) }
        };
        let mut source = Source { index: &index, store: &store.data.store(), taken_at: 5, keep: &mut keep };
        assert!(create(&mut source, &store.root(), false).is_err(), "{allowed}");
        assert_eq!(verify(&store.root()).unwrap().taken_at, 5);
        assert_eq!(packs_below(&store.restored().store()).len(), 1, "{allowed}");
    }
    store.backup(false).unwrap();
    assert_eq!(packs_below(&store.restored().store()).len(), 2);
}

#[test]
fn other_folders_and_newer_backups_are_refused() {
    let store = Store::new();
    fs::create_dir(store.root()).unwrap();
    fs::write(store.root().join("holiday.jpg"), "x").unwrap();
    assert!(matches!(store.backup(false), Err(BackupError::Foreign { .. })));
    fs::remove_file(store.root().join("holiday.jpg")).unwrap();
    store.backup(false).unwrap();
    let info = StoreInfo { format_version: 1, chunker: "c".to_owned(), created_at: 1, store_id: 8 };
    store.with(|meta| meta.set_store_info(&info).unwrap());
    assert!(matches!(store.backup(false), Err(BackupError::Foreign { .. })), "another store's");
    let path = store.root().join("manifest.jsonl");
    let text = fs::read_to_string(&path).unwrap().replace("\"firn_backup\":1", "\"firn_backup\":2");
    fs::write(&path, text).unwrap();
    let error = verify(&store.root()).unwrap_err().to_string();
    assert!(error.contains("upgrade firn"), "{error}");
}

#[test]
fn a_pack_that_is_gone_or_short_is_said_so() {
    let store = Store::new();
    store.write_pack(1, 1000, true);
    fs::write(store.place(1), vec![1; 900]).unwrap();
    assert!(matches!(store.backup(false), Err(BackupError::Pack { .. })));
    fs::remove_file(store.place(1)).unwrap();
    assert!(matches!(store.backup(false), Err(BackupError::Pack { .. })));
}

/// Gives all files below a folder a second name below another one.
fn link_all(from: &Path, to: &Path) {
    for name in files::below(from, "").unwrap() {
        let to = to.join(&name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::hard_link(from.join(&name), to).unwrap();
    }
}

/// Checks that a backup is whole, and holds nothing else.
fn check_whole(root: &Path, taken_at: u64) {
    assert_eq!(verify(root).unwrap().taken_at, taken_at);
    let manifest = Manifest::read(root).unwrap().unwrap();
    let mut there = files::below(root, "").unwrap();
    there.retain(|file| file != ".lock" && file != manifest::NAME);
    assert!(there.iter().eq(manifest.files.keys()), "{there:?}");
}

/// Lets each operation of a run fail in turn, upon an earlier backup or none, and runs it again.
fn break_off_everywhere(has_earlier: bool, failure: Failure, link: bool) {
    let store = Store::new();
    store.write_pack(1, 1000, true);
    store.write_pack(2, 700, false);
    store.backup(false).unwrap();
    let earlier = store.folder.path().join("earlier");
    fs::rename(store.root(), &earlier).unwrap();
    store.write_pack(2, 1000, true);
    store.write_pack(3, 500, false);
    store.copy_index();
    let operations = (0..).find(|nth| {
        let _ = fs::remove_dir_all(store.root());
        if has_earlier {
            link_all(&earlier, &store.root());
        }
        faults::plan(*nth, failure);
        let outcome = store.run(6, link);
        if !faults::heal() {
            outcome.unwrap();
            check_whole(&store.root(), 6);
            return true;
        }
        // Where a second name can't be had, the file is copied.
        assert!(outcome.is_err() || link, "operation {nth}");
        match verify(&store.root()) {
            Ok(found) => assert!(found.taken_at == 6 || has_earlier && found.taken_at == 5, "operation {nth}"),
            Err(BackupError::Foreign { detail, .. }) => {
                assert!(
                    !has_earlier && detail.contains("no backup to it came to its end"),
                    "operation {nth}: {detail}"
                );
            }
            Err(error) => panic!("operation {nth}: half a backup is there: {error}"),
        }
        store.run(6, link).unwrap();
        check_whole(&store.root(), 6);
        false
    });
    assert!(operations.unwrap() > 50, "{operations:?} are no backup");
    assert_eq!(packs_below(&store.restored().store()).len(), 3);
}

#[test]
fn a_first_run_that_breaks_off_anywhere_is_no_backup_and_the_next_one_is() {
    break_off_everywhere(false, Failure::End, false);
}

#[test]
fn a_run_that_breaks_off_anywhere_leaves_the_old_backup_or_the_new_one() {
    break_off_everywhere(true, Failure::End, false);
    break_off_everywhere(true, Failure::EndAfter, false);
}

#[test]
fn any_failing_operation_of_a_run_that_links_is_survived() {
    break_off_everywhere(true, Failure::Once, true);
}

#[test]
fn a_restore_that_breaks_off_anywhere_leaves_no_store_and_the_next_one_makes_it() {
    let store = Store::new();
    store.write_pack(1, 1000, true);
    store.write_pack(2, 700, false);
    store.backup(false).unwrap();
    let data = DataDir::new(store.folder.path().join("restored"));
    for failure in [Failure::End, Failure::EndAfter, Failure::Once] {
        let operations = (0..).find(|nth| {
            let _ = fs::remove_dir_all(data.root());
            fs::create_dir_all(data.root()).unwrap();
            faults::plan(*nth, failure);
            let outcome = restore(&store.root(), &data);
            let fired = faults::heal();
            assert_eq!(outcome.is_err(), fired, "{failure:?} at operation {nth}: {outcome:?}");
            if !data.exists().unwrap() {
                assert!(fired, "a restore that came to its end left nothing");
                restore(&store.root(), &data).unwrap();
            }
            let index = RocksMeta::open(&data.index(), &MetaOptions::default()).unwrap();
            assert_eq!(index.packs(None, 10).unwrap().len(), 2, "{failure:?} at operation {nth}");
            for pack in [1, 2] {
                let name = store.place(pack).strip_prefix(store.data.store()).unwrap().to_owned();
                assert_eq!(fs::read(data.store().join(name)).unwrap(), fs::read(store.place(pack)).unwrap());
            }
            !fired
        });
        assert!(operations.unwrap() > 50, "{operations:?} are no restore");
    }
}
