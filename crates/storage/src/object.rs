//! The two traits at the centre.

use bytes::Bytes;

use crate::Result;

/// A place for named objects.
///
/// Names follow [`check_name`](crate::check_name). An object is seen by every reader as soon as it has been
/// created, and its bytes as soon as they were appended, durable or not. Any number of threads may call.
pub trait Storage: Send + Sync {
    /// Creates an empty object and returns its writer. The object is not durable before the writer's first
    /// [`ObjectWriter::sync`].
    ///
    /// # Errors
    /// [`Error::AlreadyExists`](crate::Error::AlreadyExists), also when another caller creates it right now.
    fn create(&self, name: &str) -> Result<Box<dyn ObjectWriter>>;

    /// Cuts an object to `len` bytes and returns a writer that goes on from there.
    ///
    /// Meant for what a crash left: nobody else may hold a writer of the object, and nobody may have been told
    /// of the bytes behind `len`. The cut is durable with the writer's next [`ObjectWriter::sync`].
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound); [`Error::Short`](crate::Error::Short) when the object has
    /// fewer bytes, and it is left as it is.
    fn resume(&self, name: &str, len: u64) -> Result<Box<dyn ObjectWriter>>;

    /// Writes a whole object, atomically: nobody sees a part of it, and no crash leaves one. Durable when
    /// it returns.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`](crate::Error::AlreadyExists), and the object of that name is left alone. After
    /// [`Error::Io`](crate::Error::Io) the object may be there, whole.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()>;

    /// Returns exactly the `len` bytes at `offset`.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound); [`Error::Short`](crate::Error::Short) when the object ends
    /// before. No memory is taken for bytes that the object does not have.
    fn read(&self, name: &str, offset: u64, len: usize) -> Result<Bytes>;

    /// Returns an object's length in bytes.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound).
    fn len(&self, name: &str) -> Result<u64>;

    /// Returns up to `limit` objects whose names begin with `prefix` and come behind `after`, in the byte order
    /// of their names. An object that is created or deleted meanwhile may be in the list or not.
    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<ObjectEntry>>;

    /// Deletes an object; durable when it returns. What readers have in hand stays readable to them.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound).
    fn delete(&self, name: &str) -> Result<()>;

    /// Returns how many bytes can be written yet, or `None` where that is not known.
    fn free_bytes(&self) -> Result<Option<u64>>;
}

/// Appends to one object.
///
/// Dropping a writer syncs nothing and undoes nothing: the object stays as it is.
pub trait ObjectWriter: Send {
    /// Appends the parts, one behind the other, and returns the offset of the first. Not durable before
    /// [`ObjectWriter::sync`].
    ///
    /// All or nothing: when it fails the object has the length that it had before, or, if even that cannot be
    /// restored, the writer is poisoned.
    ///
    /// # Errors
    /// [`Error::Full`](crate::Error::Full): the writer may be used again. [`Error::Poisoned`](crate::Error::Poisoned).
    fn append(&mut self, parts: &[&[u8]]) -> Result<u64>;

    /// Makes everything appended so far durable, and the object's name.
    ///
    /// # Errors
    /// Any: the writer is poisoned then, because the system may have dropped bytes that it could not write,
    /// and a second try would succeed without them.
    fn sync(&mut self) -> Result<()>;

    /// Returns the object's length in bytes: the offset that the next append returns.
    fn len(&self) -> u64;

    /// Returns whether the object has no bytes yet.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectEntry {
    /// The object's name.
    pub name: String,
    /// The object's length in bytes.
    pub len: u64,
}
