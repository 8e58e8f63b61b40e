//! A storage that counts what passes through it.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::{ObjectEntry, ObjectWriter, Result, Storage};

/// Passes everything on to another storage and counts it.
///
/// A clone is another handle to the same counts.
#[derive(Clone)]
pub struct Meter {
    inner: Arc<dyn Storage>,
    counts: Counts,
}

/// What a [`Meter`] has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metered {
    /// Calls of [`Storage::create`].
    pub creates: u64,
    /// Calls of [`Storage::resume`].
    pub resumes: u64,
    /// Calls of [`Storage::put`].
    pub puts: u64,
    /// Calls of [`Storage::read`].
    pub reads: u64,
    /// Calls of [`Storage::len`] and [`Storage::free_bytes`].
    pub looks: u64,
    /// Calls of [`Storage::list`].
    pub lists: u64,
    /// Calls of [`Storage::delete`].
    pub deletes: u64,
    /// Calls of [`ObjectWriter::append`].
    pub appends: u64,
    /// Calls of [`ObjectWriter::sync`]; a put syncs as well and is not counted here.
    pub syncs: u64,
    /// Calls of any kind that failed; they are in the other counts too.
    pub failures: u64,
    /// Bytes that reads returned.
    pub read_bytes: u64,
    /// Bytes that appends and puts wrote.
    pub written_bytes: u64,
}

type Counts = Arc<Mutex<Metered>>;

impl Metered {
    /// Returns what was counted between an earlier look at the same meter and this one.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            creates: self.creates - earlier.creates,
            resumes: self.resumes - earlier.resumes,
            puts: self.puts - earlier.puts,
            reads: self.reads - earlier.reads,
            looks: self.looks - earlier.looks,
            lists: self.lists - earlier.lists,
            deletes: self.deletes - earlier.deletes,
            appends: self.appends - earlier.appends,
            syncs: self.syncs - earlier.syncs,
            failures: self.failures - earlier.failures,
            read_bytes: self.read_bytes - earlier.read_bytes,
            written_bytes: self.written_bytes - earlier.written_bytes,
        }
    }
}

impl Meter {
    /// Returns a storage that passes on to `inner`, with every count at zero.
    #[must_use]
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, counts: Counts::default() }
    }

    /// Returns the counts up to now.
    #[must_use]
    pub fn counts(&self) -> Metered {
        *self.counts.lock().expect("nothing panics while it holds the lock")
    }

    fn count<T>(&self, result: Result<T>, add: impl FnOnce(&mut Metered, Option<&T>)) -> Result<T> {
        count(&self.counts, result, add)
    }
}

/// Counts one call, whose value is given if it succeeded.
fn count<T>(counts: &Counts, result: Result<T>, add: impl FnOnce(&mut Metered, Option<&T>)) -> Result<T> {
    let mut counts = counts.lock().expect("nothing panics while it holds the lock");
    counts.failures += u64::from(result.is_err());
    add(&mut counts, result.as_ref().ok());
    result
}

fn length(len: usize) -> u64 {
    u64::try_from(len).expect("no machine has addresses of more than 64 bits")
}

impl Storage for Meter {
    fn create(&self, name: &str) -> Result<Box<dyn ObjectWriter>> {
        let writer = self.count(self.inner.create(name), |counts, _| counts.creates += 1)?;
        Ok(Box::new(MeterWriter { inner: writer, counts: Arc::clone(&self.counts) }))
    }

    fn resume(&self, name: &str, len: u64) -> Result<Box<dyn ObjectWriter>> {
        let writer = self.count(self.inner.resume(name, len), |counts, _| counts.resumes += 1)?;
        Ok(Box::new(MeterWriter { inner: writer, counts: Arc::clone(&self.counts) }))
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.count(self.inner.put(name, bytes), |counts, done| {
            counts.puts += 1;
            counts.written_bytes += done.map_or(0, |()| length(bytes.len()));
        })
    }

    fn read(&self, name: &str, offset: u64, len: usize) -> Result<Bytes> {
        self.count(self.inner.read(name, offset, len), |counts, bytes| {
            counts.reads += 1;
            counts.read_bytes += bytes.map_or(0, |bytes| length(bytes.len()));
        })
    }

    fn len(&self, name: &str) -> Result<u64> {
        self.count(self.inner.len(name), |counts, _| counts.looks += 1)
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<ObjectEntry>> {
        self.count(self.inner.list(prefix, after, limit), |counts, _| counts.lists += 1)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.count(self.inner.delete(name), |counts, _| counts.deletes += 1)
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        self.count(self.inner.free_bytes(), |counts, _| counts.looks += 1)
    }
}

struct MeterWriter {
    inner: Box<dyn ObjectWriter>,
    counts: Counts,
}

impl ObjectWriter for MeterWriter {
    fn append(&mut self, parts: &[&[u8]]) -> Result<u64> {
        let bytes = length(parts.iter().map(|part| part.len()).sum());
        count(&self.counts, self.inner.append(parts), |counts, done| {
            counts.appends += 1;
            counts.written_bytes += done.map_or(0, |_| bytes);
        })
    }

    fn sync(&mut self) -> Result<()> {
        count(&self.counts, self.inner.sync(), |counts, _| counts.syncs += 1)
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, Memory};

    #[test]
    fn counts_calls_bytes_and_failures() {
        let meter = Meter::new(Arc::new(Memory::with_capacity(10)));
        let mut writer = meter.create("a").unwrap();
        writer.append(&[b"abc", b"de"]).unwrap();
        assert!(matches!(writer.append(&[b"123456"]), Err(Error::Full { .. })));
        writer.sync().unwrap();
        let before = meter.counts();
        assert_eq!(
            before,
            Metered { creates: 1, appends: 2, syncs: 1, failures: 1, written_bytes: 5, ..Metered::default() }
        );

        meter.put("b", b"xy").unwrap();
        meter.read("b", 0, 2).unwrap();
        assert!(meter.read("b", 1, 2).is_err());
        meter.len("b").unwrap();
        meter.free_bytes().unwrap();
        meter.list("", None, 9).unwrap();
        drop(meter.resume("a", 1).unwrap());
        meter.delete("a").unwrap();
        let expected = Metered {
            resumes: 1,
            puts: 1,
            reads: 2,
            looks: 2,
            lists: 1,
            deletes: 1,
            failures: 1,
            read_bytes: 2,
            written_bytes: 2,
            ..Metered::default()
        };
        assert_eq!(meter.counts().since(&before), expected);
    }
}
