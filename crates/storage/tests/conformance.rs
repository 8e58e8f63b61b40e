//! Every storage keeps every promise, behind every decorator too.

use std::path::Path;
use std::sync::Arc;

use firn_storage::{Disk, Fault, Memory, Meter, Storage, conformance};

/// Returns a function that opens a new folder at each call.
fn disks(root: &Path) -> impl FnMut() -> Arc<dyn Storage> {
    let mut number = 0;
    move || {
        number += 1;
        Arc::new(Disk::open(root.join(number.to_string())).expect("the folder is new"))
    }
}

#[test]
fn memory() {
    conformance::run(&mut || Arc::new(Memory::new()));
}

#[test]
fn memory_with_a_capacity() {
    conformance::run(&mut || Arc::new(Memory::with_capacity(64 << 20)));
}

#[test]
fn disk() {
    let root = tempfile::tempdir().unwrap();
    conformance::run(&mut disks(root.path()));
}

#[test]
fn behind_a_meter() {
    let root = tempfile::tempdir().unwrap();
    let mut disks = disks(root.path());
    conformance::run(&mut || Arc::new(Meter::new(disks())));
    conformance::run(&mut || Arc::new(Meter::new(Arc::new(Memory::new()))));
}

#[test]
fn behind_a_fault() {
    let root = tempfile::tempdir().unwrap();
    let mut disks = disks(root.path());
    conformance::run(&mut || Arc::new(Fault::new(disks())));
    conformance::run(&mut || Arc::new(Fault::new(Arc::new(Memory::new()))));
}
