//! Objects in memory, for tests: knows what would be left after a loss of power.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use crate::{Error, ObjectEntry, ObjectWriter, Result, Storage, check_name};

/// Keeps objects in memory.
///
/// A clone is another handle to the same objects. Knows for each object how much of it was synced:
/// [`Memory::after_power_loss`] is what a disk would hold.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Object>,
    capacity: Option<u64>,
    /// Tells an object from an earlier one of its name, so that a stale writer cannot reach it.
    created: u64,
}

#[derive(Debug, Clone, Default)]
struct Object {
    number: u64,
    bytes: Vec<u8>,
    /// How many of the bytes were synced; `None` when not even the name was.
    durable: Option<usize>,
}

impl Memory {
    /// Returns an empty storage.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns an empty storage that is full when its objects have `bytes` bytes together.
    #[must_use]
    pub fn with_capacity(bytes: u64) -> Self {
        let memory = Self::default();
        memory.set_capacity(Some(bytes));
        memory
    }

    /// Sets how many bytes the objects may have together, from now on; `None` for no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Returns a copy as a loss of power would leave it: what was synced, and nothing else.
    #[must_use]
    pub fn after_power_loss(&self) -> Self {
        self.after_torn_power_loss(&mut |_, _| 0)
    }

    /// Returns a copy as a loss of power could leave it: what was synced and, of each object's other bytes, as
    /// many as `survive` says, given the object's name and how many there are. An object whose name was never
    /// synced is there only if some of its bytes survive.
    #[must_use]
    pub fn after_torn_power_loss(&self, survive: &mut dyn FnMut(&str, usize) -> usize) -> Self {
        let state = self.state();
        let mut objects = BTreeMap::new();
        for (name, object) in &state.objects {
            let synced = object.durable.unwrap_or(0);
            let torn = object.bytes.len().saturating_sub(synced);
            let survivors = survive(name, torn).min(torn);
            if object.durable.is_none() && survivors == 0 {
                continue;
            }
            let bytes = object.bytes.iter().copied().take(synced + survivors).collect::<Vec<_>>();
            objects.insert(name.clone(), Object { number: object.number, durable: Some(bytes.len()), bytes });
        }
        let state = State { objects, capacity: state.capacity, created: state.created };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Damages an object: each bit that is set in `mask` is flipped in the byte at `offset`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Short`] when the object ends before.
    pub fn damage(&self, name: &str, offset: usize, mask: u8) -> Result<()> {
        let mut state = self.state();
        let object = state.objects.get_mut(name).ok_or_else(|| Error::not_found(name))?;
        let short = Error::Short { name: name.to_owned(), wanted: 1, got: 0 };
        *object.bytes.get_mut(offset).ok_or(short)? ^= mask;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the lock")
    }
}

impl State {
    fn used(&self) -> u64 {
        self.objects.values().map(|object| length(object.bytes.len())).sum()
    }

    fn free(&self) -> Option<u64> {
        self.capacity.map(|capacity| capacity.saturating_sub(self.used()))
    }

    fn check_room(&self, name: &str, bytes: u64) -> Result<()> {
        if self.free().is_some_and(|free| free < bytes) { Err(Error::full(name)) } else { Ok(()) }
    }

    fn get(&self, name: &str) -> Result<&Object> {
        self.objects.get(name).ok_or_else(|| Error::not_found(name))
    }

    /// Returns a writer's object, unless it was deleted: then nobody sees what is written.
    fn object(&mut self, name: &str, number: u64) -> Option<&mut Object> {
        self.objects.get_mut(name).filter(|object| object.number == number)
    }

    fn insert(&mut self, name: &str, bytes: Vec<u8>, durable: Option<usize>) -> Result<u64> {
        self.created += 1;
        let number = self.created;
        match self.objects.entry(name.to_owned()) {
            Entry::Occupied(_) => Err(Error::already_exists(name)),
            Entry::Vacant(entry) => {
                entry.insert(Object { number, bytes, durable });
                Ok(number)
            }
        }
    }
}

fn length(len: usize) -> u64 {
    u64::try_from(len).expect("no machine has addresses of more than 64 bits")
}

impl Storage for Memory {
    fn create(&self, name: &str) -> Result<Box<dyn ObjectWriter>> {
        check_name(name)?;
        let number = self.state().insert(name, Vec::new(), None)?;
        Ok(Box::new(MemoryWriter { memory: self.clone(), name: name.to_owned(), number, len: 0 }))
    }

    fn resume(&self, name: &str, len: u64) -> Result<Box<dyn ObjectWriter>> {
        check_name(name)?;
        let mut state = self.state();
        let object = state.objects.get_mut(name).ok_or_else(|| Error::not_found(name))?;
        let got = length(object.bytes.len());
        let cut = usize::try_from(len).ok().filter(|_| len <= got);
        let cut = cut.ok_or_else(|| Error::Short { name: name.to_owned(), wanted: len, got })?;
        object.bytes.truncate(cut);
        object.durable = object.durable.map(|durable| durable.min(cut));
        let number = object.number;
        Ok(Box::new(MemoryWriter { memory: self.clone(), name: name.to_owned(), number, len }))
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        check_name(name)?;
        let mut state = self.state();
        if state.objects.contains_key(name) {
            return Err(Error::already_exists(name));
        }
        state.check_room(name, length(bytes.len()))?;
        state.insert(name, bytes.to_vec(), Some(bytes.len())).map(|_| ())
    }

    fn read(&self, name: &str, offset: u64, len: usize) -> Result<Bytes> {
        check_name(name)?;
        let state = self.state();
        let bytes = state.get(name)?.bytes.as_slice();
        let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
        let short = || Error::Short { name: name.to_owned(), wanted: length(len), got: length(rest.len()) };
        rest.get(..len).map(Bytes::copy_from_slice).ok_or_else(short)
    }

    fn len(&self, name: &str) -> Result<u64> {
        check_name(name)?;
        self.state().get(name).map(|object| length(object.bytes.len()))
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<ObjectEntry>> {
        let state = self.state();
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let found = state.objects.range::<str, _>((from, Bound::Unbounded));
        let found = found.take_while(|(name, _)| name.starts_with(prefix)).take(limit);
        let entry =
            |(name, object): (&String, &Object)| ObjectEntry { name: name.clone(), len: length(object.bytes.len()) };
        Ok(found.map(entry).collect())
    }

    fn delete(&self, name: &str) -> Result<()> {
        check_name(name)?;
        self.state().objects.remove(name).map(|_| ()).ok_or_else(|| Error::not_found(name))
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        Ok(self.state().free())
    }
}

struct MemoryWriter {
    memory: Memory,
    name: String,
    number: u64,
    len: u64,
}

impl ObjectWriter for MemoryWriter {
    fn append(&mut self, parts: &[&[u8]]) -> Result<u64> {
        let added = length(parts.iter().map(|part| part.len()).sum());
        let mut state = self.memory.state();
        state.check_room(&self.name, added)?;
        if let Some(object) = state.object(&self.name, self.number) {
            for part in parts {
                object.bytes.extend_from_slice(part);
            }
        }
        let offset = self.len;
        self.len += added;
        Ok(offset)
    }

    fn sync(&mut self) -> Result<()> {
        if let Some(object) = self.memory.state().object(&self.name, self.number) {
            object.durable = Some(object.bytes.len());
        }
        Ok(())
    }

    fn len(&self) -> u64 {
        self.len
    }
}
