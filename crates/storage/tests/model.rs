//! Disk and memory answer alike to any sequence of calls, also when the disk is closed and opened in between.

use std::collections::HashMap;
use std::mem::discriminant;

use firn_storage::{Disk, Error, Memory, ObjectWriter, Storage};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Call {
    Create(usize),
    Append(usize, Vec<Vec<u8>>),
    Sync(usize),
    Resume(usize, u64),
    Put(usize, Vec<u8>),
    Read(usize, u64, usize),
    Len(usize),
    List(usize, Option<usize>, usize),
    Delete(usize),
    Reopen,
}

const NAMES: [&str; 6] = ["a", "packs/1", "packs/2", "packs/0/1", "packs.0", "packs-0/x"];
const PREFIXES: [&str; 4] = ["", "packs", "packs/", "packs/0"];

fn any_call() -> impl Strategy<Value = Call> {
    let name = 0..NAMES.len();
    let bytes = || prop::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        3 => name.clone().prop_map(Call::Create),
        5 => (name.clone(), prop::collection::vec(bytes(), 0..4)).prop_map(|(name, parts)| Call::Append(name, parts)),
        1 => name.clone().prop_map(Call::Sync),
        2 => (name.clone(), 0_u64..60).prop_map(|(name, len)| Call::Resume(name, len)),
        2 => (name.clone(), bytes()).prop_map(|(name, bytes)| Call::Put(name, bytes)),
        4 => (name.clone(), 0_u64..60, 0_usize..60).prop_map(|(name, offset, len)| Call::Read(name, offset, len)),
        1 => name.clone().prop_map(Call::Len),
        2 => (0..PREFIXES.len(), prop::option::of(name.clone()), 0_usize..8)
            .prop_map(|(prefix, after, limit)| Call::List(prefix, after, limit)),
        2 => name.prop_map(Call::Delete),
        1 => Just(Call::Reopen),
    ]
}

type Writers = HashMap<usize, Box<dyn ObjectWriter>>;

fn keep(writers: &mut Writers, name: usize, writer: Box<dyn ObjectWriter>) -> String {
    let len = writer.len();
    writers.insert(name, writer);
    format!("a writer at {len}")
}

/// Makes a call and returns its answer as text; errors by what they are, with their fields if they are not the system's.
fn call(storage: &dyn Storage, writers: &mut Writers, call: &Call) -> String {
    let answer: Result<String, Error> = match call {
        Call::Create(name) => storage.create(NAMES[*name]).map(|writer| keep(writers, *name, writer)),
        Call::Resume(name, len) => {
            // There is one writer at a time.
            drop(writers.remove(name));
            storage.resume(NAMES[*name], *len).map(|writer| keep(writers, *name, writer))
        }
        Call::Append(name, parts) => writers.get_mut(name).map_or(Ok("no writer".into()), |writer| {
            let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
            writer.append(&parts).map(|offset| format!("{offset}, then {}", writer.len()))
        }),
        Call::Sync(name) => {
            writers.get_mut(name).map_or(Ok("no writer".into()), |writer| writer.sync().map(|()| "synced".to_owned()))
        }
        Call::Put(name, bytes) => storage.put(NAMES[*name], bytes).map(|()| "put".to_owned()),
        Call::Read(name, offset, len) => storage.read(NAMES[*name], *offset, *len).map(|bytes| format!("{bytes:?}")),
        Call::Len(name) => storage.len(NAMES[*name]).map(|len| len.to_string()),
        Call::List(prefix, after, limit) => {
            let after = after.map(|after| NAMES[after]);
            storage.list(PREFIXES[*prefix], after, *limit).map(|list| format!("{list:?}"))
        }
        Call::Delete(name) => {
            drop(writers.remove(name));
            storage.delete(NAMES[*name]).map(|()| "deleted".to_owned())
        }
        Call::Reopen => Ok(String::new()),
    };
    answer.unwrap_or_else(|error| match error {
        Error::Io { .. } => format!("{:?}", discriminant(&error)),
        error => format!("{error:?}"),
    })
}

proptest! {
    #[test]
    fn disk_is_as_memory(calls in prop::collection::vec(any_call(), 1..60)) {
        // Where there is one, a file system that syncs in no time.
        let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let memory = Memory::new();
        let mut disk = Some(Disk::open(root.path()).unwrap());
        let (mut on_disk, mut in_memory) = (Writers::new(), Writers::new());
        for made in &calls {
            if matches!(made, Call::Reopen) {
                on_disk.clear();
                in_memory.clear();
                drop(disk.take());
                disk = Some(Disk::open(root.path()).unwrap());
            }
            let disk = disk.as_ref().expect("it is opened again at once");
            let (first, second) = (call(disk, &mut on_disk, made), call(&memory, &mut in_memory, made));
            prop_assert_eq!(first, second, "{:?}", made);
        }
    }
}
