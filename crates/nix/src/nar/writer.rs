//! The inverse of the decoder.

use std::io::{self, Write};

use super::decoder::why_not_a_name;
use super::words::{self, padding};
use super::{MAX_DEPTH, MAX_NAME_LEN, MAX_TARGET_LEN};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// A node: the root, or that of an entry just named.
    Node,
    /// An entry, or the end of the innermost directory.
    Entry,
    /// This many bytes of the current file.
    Contents(u64),
    Nothing,
}

/// Writes the canonical NAR of the tree that its calls describe.
///
/// Calls out of order, names out of order and everything else that [`super::Decoder`] would refuse give
/// [`io::ErrorKind::InvalidInput`], and so nothing but NARs comes out. It writes in small pieces: give it a buffered writer.
/// After an error the output is of no use.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    position: u64,
    due: Due,
    /// The length of the current file.
    size: u64,
    last_names: Vec<u8>,
    open: Vec<usize>,
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

impl<W: Write> Writer<W> {
    /// Returns a writer that has written nothing yet.
    pub fn new(out: W) -> Self {
        Self { out, position: 0, due: Due::Node, size: 0, last_names: Vec::new(), open: Vec::new() }
    }

    /// Begins a directory, as the root or as the entry just named.
    pub fn directory(&mut self) -> io::Result<()> {
        if self.open.len() == MAX_DEPTH {
            return Err(invalid("directories nested too deeply"));
        }
        self.begin_node(words::DIRECTORY)?;
        self.open.push(self.last_names.len());
        self.due = Due::Entry;
        Ok(())
    }

    /// Names the next entry of the innermost directory; its node comes next.
    pub fn entry(&mut self, name: &[u8]) -> io::Result<()> {
        let (Due::Entry, Some(&start)) = (self.due, self.open.last()) else {
            return Err(invalid("entry outside of a directory"));
        };
        if name.is_empty() || name.len() > MAX_NAME_LEN || why_not_a_name(name).is_some() {
            return Err(invalid("name that no file can have"));
        }
        if name <= &self.last_names[start..] {
            return Err(invalid("entry out of order or twice"));
        }
        self.last_names.truncate(start);
        self.last_names.extend_from_slice(name);
        self.put(words::ENTRY)?;
        self.put_text(name)?;
        self.put(words::NODE)?;
        self.due = Due::Node;
        Ok(())
    }

    /// Ends the innermost directory.
    pub fn end_directory(&mut self) -> io::Result<()> {
        let (Due::Entry, Some(start)) = (self.due, self.open.pop()) else {
            return Err(invalid("end outside of a directory"));
        };
        self.last_names.truncate(start);
        self.end_node()
    }

    /// Begins a regular file, as the root or as the entry just named; [`Self::contents`] adding up to `size` come next, none if
    /// it is 0.
    pub fn regular(&mut self, executable: bool, size: u64) -> io::Result<()> {
        self.begin_node(if executable { words::EXECUTABLE } else { words::REGULAR })?;
        if size > (i64::MAX as u64).saturating_sub(self.position) {
            return Err(invalid("file too large"));
        }
        self.put(&size.to_le_bytes())?;
        self.size = size;
        self.due = Due::Contents(size);
        if size == 0 { self.end_node() } else { Ok(()) }
    }

    /// Adds the next bytes to the current file.
    pub fn contents(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let Due::Contents(left) = self.due else {
            return Err(invalid("contents outside of a file"));
        };
        let Some(left) = left.checked_sub(bytes.len() as u64) else {
            return Err(invalid("more contents than announced"));
        };
        self.put(bytes)?;
        self.due = Due::Contents(left);
        if left == 0 {
            self.put(&[0; 7][..padding(self.size)])?;
            return self.end_node();
        }
        Ok(())
    }

    /// Writes a symbolic link, as the root or as the entry just named.
    pub fn symlink(&mut self, target: &[u8]) -> io::Result<()> {
        if target.is_empty() || target.len() > MAX_TARGET_LEN || target.contains(&0) {
            return Err(invalid("target that no symlink can have"));
        }
        self.begin_node(words::SYMLINK)?;
        self.put_text(target)?;
        self.end_node()
    }

    /// Returns how many bytes were written.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Says if the NAR is whole: nothing more can be written.
    pub fn is_complete(&self) -> bool {
        self.due == Due::Nothing
    }

    /// Returns what it wrote to, not flushed, whole or not.
    pub fn into_inner(self) -> W {
        self.out
    }

    /// Returns what it wrote to, not flushed, if the NAR is whole.
    pub fn finish(self) -> io::Result<W> {
        if self.is_complete() { Ok(self.out) } else { Err(invalid("the tree is not whole")) }
    }

    fn begin_node(&mut self, words: &[u8]) -> io::Result<()> {
        if self.due != Due::Node {
            return Err(invalid("node where none is due"));
        }
        if self.position == 0 {
            self.put(words::MAGIC)?;
        }
        self.put(words)
    }

    fn end_node(&mut self) -> io::Result<()> {
        if self.open.is_empty() {
            self.due = Due::Nothing;
            self.put(words::CLOSE)
        } else {
            self.due = Due::Entry;
            self.put(words::CLOSE_IN_ENTRY)
        }
    }

    fn put_text(&mut self, text: &[u8]) -> io::Result<()> {
        let len = text.len() as u64;
        self.put(&len.to_le_bytes())?;
        self.put(text)?;
        self.put(&[0; 7][..padding(len)])
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.position += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}
