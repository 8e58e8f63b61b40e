//! A storage that fails when it is told to.

use std::io;
use std::ops::Range;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use crate::{Error, ObjectEntry, ObjectWriter, Result, Storage};

/// A call that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`Storage::create`].
    Create,
    /// [`Storage::resume`].
    Resume,
    /// [`Storage::put`].
    Put,
    /// [`Storage::read`].
    Read,
    /// [`Storage::len`].
    Len,
    /// [`Storage::list`].
    List,
    /// [`Storage::delete`].
    Delete,
    /// [`Storage::free_bytes`].
    FreeBytes,
    /// [`ObjectWriter::append`].
    Append,
    /// [`ObjectWriter::sync`].
    Sync,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Nothing is done, and the answer is [`Error::Full`].
    Full,
    /// Nothing is done, and the answer is [`Error::Io`].
    Io,
    /// The call is done, and yet the answer is [`Error::Io`]. A writer is poisoned by it.
    Late,
    /// Nothing is done, the answer is [`Error::Io`], and so is that of every later call: the process has
    /// lost its disk, or its life.
    Crash,
    /// As [`Failure::Crash`], but an append first writes this many of its bytes.
    Torn(usize),
    /// The process ends, as if it was killed, before anything is done.
    Kill,
    /// The call is done, and the process ends, as if it was killed.
    KillAfter,
}

impl FromStr for Operation {
    type Err = String;

    /// Reads an operation's name in small letters: `append`.
    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let known = Self::ALL.into_iter().find(|operation| format!("{operation:?}").to_lowercase() == name);
        known.ok_or_else(|| format!("there is no call '{name}' of a storage"))
    }
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Create,
        Self::Resume,
        Self::Put,
        Self::Read,
        Self::Len,
        Self::List,
        Self::Delete,
        Self::FreeBytes,
        Self::Append,
        Self::Sync,
    ];
}

/// Ends the process at once; nothing is written, closed or told.
fn end_process() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    // A signal that could not be sent.
    std::process::abort()
}

/// Passes everything on to another storage, and fails one call as planned.
///
/// To try every place where something can fail: for n = 0, 1, … plan the n-th call to fail, run, check what is
/// left, and stop at the first n for which [`Fault::fired`] stays false. Over a [`Memory`](crate::Memory), what
/// a crash leaves is its [`after_power_loss`](crate::Memory::after_power_loss). A clone is another handle to the
/// same plan.
#[derive(Clone)]
pub struct Fault {
    inner: Arc<dyn Storage>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    plan: Option<Plan>,
    fired: bool,
    crashed: bool,
    calls: u64,
    /// What can't be read, as on a disk with a bad sector.
    unreadable: Option<(String, Range<u64>)>,
}

struct Plan {
    operation: Option<Operation>,
    /// How many more matching calls succeed.
    spare: u64,
    failure: Failure,
}

impl Fault {
    /// Returns a storage that passes on to `inner` and fails nothing yet.
    #[must_use]
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, state: Arc::default() }
    }

    /// Plans that of the calls from now on (of one operation, or of any) the one after `spare` others fails.
    /// Replaces an earlier plan.
    pub fn plan(&self, operation: Option<Operation>, spare: u64, failure: Failure) {
        let mut state = self.state();
        state.plan = Some(Plan { operation, spare, failure });
        state.fired = false;
    }

    /// Has every read of an object fail that touches these bytes, until [`Fault::heal`].
    pub fn refuse(&self, name: &str, bytes: Range<u64>) {
        self.state().unreadable = Some((name.to_owned(), bytes));
    }

    /// Returns whether the planned failure has happened.
    #[must_use]
    pub fn fired(&self) -> bool {
        self.state().fired
    }

    /// Returns how many calls were made, failed ones included.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Forgets the plan, gives everything again and ends a crash. Writers that were poisoned stay so.
    pub fn heal(&self) {
        let mut state = self.state();
        state.plan = None;
        state.unreadable = None;
        state.crashed = false;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the lock")
    }

    /// Counts a call, and returns how it is to fail, if it is.
    fn next(&self, operation: Operation) -> Option<Failure> {
        let mut state = self.state();
        state.calls += 1;
        if state.crashed {
            return Some(Failure::Crash);
        }
        let plan = state.plan.as_mut()?;
        if plan.operation.is_some_and(|planned| planned != operation) {
            return None;
        }
        if plan.spare > 0 {
            plan.spare -= 1;
            return None;
        }
        let failure = plan.failure;
        state.plan = None;
        state.fired = true;
        state.crashed = matches!(failure, Failure::Crash | Failure::Torn(_));
        Some(failure)
    }

    fn run<T>(&self, operation: Operation, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        match self.next(operation) {
            None => work(),
            Some(Failure::Late) => work().and_then(|_| Err(injected(name))),
            Some(Failure::KillAfter) => {
                let _ = work();
                end_process()
            }
            Some(failure) => Err(error(failure, name)),
        }
    }

    fn writer(&self, name: &str, inner: Box<dyn ObjectWriter>) -> Box<dyn ObjectWriter> {
        Box::new(FaultWriter { fault: self.clone(), inner, name: name.to_owned(), poisoned: false })
    }
}

fn injected(name: &str) -> Error {
    Error::Io {
        doing: "work on the object",
        name: name.to_owned(),
        source: io::Error::other("this failure was planned"),
    }
}

fn error(failure: Failure, name: &str) -> Error {
    match failure {
        Failure::Full => Error::full(name),
        Failure::Io | Failure::Late | Failure::Crash | Failure::Torn(_) => injected(name),
        Failure::Kill | Failure::KillAfter => end_process(),
    }
}

impl Storage for Fault {
    fn create(&self, name: &str) -> Result<Box<dyn ObjectWriter>> {
        let inner = self.run(Operation::Create, name, || self.inner.create(name))?;
        Ok(self.writer(name, inner))
    }

    fn resume(&self, name: &str, len: u64) -> Result<Box<dyn ObjectWriter>> {
        let inner = self.run(Operation::Resume, name, || self.inner.resume(name, len))?;
        Ok(self.writer(name, inner))
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.run(Operation::Put, name, || self.inner.put(name, bytes))
    }

    fn read(&self, name: &str, offset: u64, len: usize) -> Result<Bytes> {
        let end = offset.saturating_add(len as u64);
        let is_refused =
            |(object, bytes): &(String, Range<u64>)| object == name && bytes.start < end && offset < bytes.end;
        if self.state().unreadable.as_ref().is_some_and(is_refused) {
            return Err(injected(name));
        }
        self.run(Operation::Read, name, || self.inner.read(name, offset, len))
    }

    fn len(&self, name: &str) -> Result<u64> {
        self.run(Operation::Len, name, || self.inner.len(name))
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<ObjectEntry>> {
        self.run(Operation::List, prefix, || self.inner.list(prefix, after, limit))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.run(Operation::Delete, name, || self.inner.delete(name))
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        self.run(Operation::FreeBytes, "", || self.inner.free_bytes())
    }
}

struct FaultWriter {
    fault: Fault,
    inner: Box<dyn ObjectWriter>,
    name: String,
    poisoned: bool,
}

impl ObjectWriter for FaultWriter {
    fn append(&mut self, parts: &[&[u8]]) -> Result<u64> {
        if self.poisoned {
            return Err(Error::poisoned(&self.name));
        }
        match self.fault.next(Operation::Append) {
            None => self.inner.append(parts),
            Some(failure @ (Failure::Full | Failure::Io | Failure::Crash | Failure::Kill)) => {
                Err(error(failure, &self.name))
            }
            Some(Failure::KillAfter) => {
                let _ = self.inner.append(parts);
                end_process()
            }
            Some(Failure::Late) => {
                // Its bytes are there, so the object is not as long as its user must believe.
                self.poisoned = true;
                self.inner.append(parts)?;
                Err(injected(&self.name))
            }
            Some(Failure::Torn(keep)) => {
                let bytes = parts.concat();
                self.inner.append(&[bytes.get(..keep).unwrap_or(&bytes)])?;
                Err(injected(&self.name))
            }
        }
    }

    fn sync(&mut self) -> Result<()> {
        if self.poisoned {
            return Err(Error::poisoned(&self.name));
        }
        let done = self.fault.run(Operation::Sync, &self.name, || self.inner.sync());
        self.poisoned = done.is_err();
        done
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Memory;

    fn setup() -> (Memory, Fault) {
        let memory = Memory::new();
        (memory.clone(), Fault::new(Arc::new(memory)))
    }

    #[test]
    fn the_planned_call_fails_and_no_other() {
        let (_, fault) = setup();
        fault.plan(Some(Operation::Put), 1, Failure::Full);
        fault.put("a", b"a").unwrap();
        assert_eq!(fault.read("a", 0, 1).unwrap(), "a");
        assert!(!fault.fired());
        assert!(matches!(fault.put("b", b"b"), Err(Error::Full { .. })));
        assert!(fault.fired());
        fault.put("b", b"b").unwrap();
        assert_eq!(fault.calls(), 4);
    }

    #[test]
    fn what_is_refused_can_not_be_read_until_it_is_healed() {
        let (_, fault) = setup();
        fault.put("a", b"abcdef").unwrap();
        fault.put("b", b"abcdef").unwrap();
        fault.refuse("a", 2..4);
        for (offset, len, is_given) in [(0, 2, true), (0, 3, false), (3, 1, false), (4, 2, true)] {
            assert_eq!(fault.read("a", offset, len).is_ok(), is_given, "{offset} {len}");
        }
        fault.read("b", 0, 6).unwrap();
        fault.heal();
        fault.read("a", 0, 6).unwrap();
    }

    #[test]
    fn operations_have_names() {
        assert_eq!("append".parse(), Ok(Operation::Append));
        assert_eq!("freebytes".parse(), Ok(Operation::FreeBytes));
        assert!("apend".parse::<Operation>().is_err());
    }

    #[test]
    fn late_means_done() {
        let (memory, fault) = setup();
        fault.plan(None, 0, Failure::Late);
        assert!(matches!(fault.put("a", b"a"), Err(Error::Io { .. })));
        assert_eq!(memory.read("a", 0, 1).unwrap(), "a");

        let mut writer = fault.create("b").unwrap();
        fault.plan(Some(Operation::Append), 0, Failure::Late);
        assert!(writer.append(&[b"b"]).is_err());
        assert!(matches!(writer.append(&[b"c"]), Err(Error::Poisoned { .. })));
    }

    #[test]
    fn a_failed_append_leaves_nothing_and_the_writer_goes_on() {
        let (memory, fault) = setup();
        let mut writer = fault.create("a").unwrap();
        fault.plan(Some(Operation::Append), 0, Failure::Full);
        assert!(matches!(writer.append(&[b"no"]), Err(Error::Full { .. })));
        assert_eq!(memory.len("a").unwrap(), 0);
        assert_eq!(writer.append(&[b"yes"]).unwrap(), 0);
    }

    #[test]
    fn a_failed_sync_poisons() {
        let (memory, fault) = setup();
        let mut writer = fault.create("a").unwrap();
        writer.append(&[b"abc"]).unwrap();
        fault.plan(Some(Operation::Sync), 0, Failure::Io);
        assert!(matches!(writer.sync(), Err(Error::Io { .. })));
        assert!(matches!(writer.sync(), Err(Error::Poisoned { .. })));
        assert!(matches!(writer.append(&[b"d"]), Err(Error::Poisoned { .. })));
        assert_eq!(memory.after_power_loss().list("", None, 9).unwrap(), []);
    }

    #[test]
    fn after_a_crash_everything_fails_until_healed() {
        let (memory, fault) = setup();
        let mut writer = fault.create("a").unwrap();
        writer.append(&[b"durable"]).unwrap();
        writer.sync().unwrap();
        writer.append(&[b"lost"]).unwrap();
        fault.plan(Some(Operation::Append), 0, Failure::Torn(3));
        assert!(writer.append(&[b"to", b"rn"]).is_err());
        assert!(writer.sync().is_err());
        assert!(fault.read("a", 0, 1).is_err());
        assert!(fault.create("b").is_err());
        assert!(fault.free_bytes().is_err());

        assert_eq!(memory.read("a", 0, 14).unwrap(), "durablelosttor");
        let left = memory.after_power_loss();
        assert_eq!(left.read("a", 0, 7).unwrap(), "durable");
        assert_eq!(left.len("a").unwrap(), 7);
        let torn = memory.after_torn_power_loss(&mut |_, bytes| bytes - 2);
        assert_eq!(torn.read("a", 0, 12).unwrap(), "durablelostt");

        fault.heal();
        assert_eq!(fault.read("a", 0, 1).unwrap(), "d");
    }
}
