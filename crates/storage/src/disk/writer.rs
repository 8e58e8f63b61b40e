//! Appending to a file.

use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::Arc;

use rustix::io::Errno;

use super::folders::Folders;
use crate::{Error, ObjectWriter, Result};

/// How many parts go into one system call; the kernel takes no more than 1024.
const PARTS: usize = 256;

#[derive(Debug)]
pub(super) struct DiskWriter {
    name: String,
    file: File,
    len: u64,
    folders: Arc<Folders>,
    /// Whether the object's name is durable.
    named: bool,
    poisoned: bool,
}

impl DiskWriter {
    pub(super) fn new(name: &str, file: File, len: u64, folders: Arc<Folders>) -> Self {
        Self { name: name.to_owned(), file, len, folders, named: false, poisoned: false }
    }

    fn check(&self) -> Result<()> {
        if self.poisoned { Err(Error::poisoned(&self.name)) } else { Ok(()) }
    }

    /// Writes the parts behind the object's end.
    fn write(&self, parts: &[&[u8]]) -> io::Result<u64> {
        let mut at = self.len;
        for parts in parts.chunks(PARTS) {
            let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
            let mut left = slices.as_mut_slice();
            // Drops empty parts in front, so that there is something to write as long as there are slices.
            IoSlice::advance_slices(&mut left, 0);
            while !left.is_empty() {
                match rustix::io::pwritev(&self.file, left, at) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => {
                        let past_end = || io::Error::from(io::ErrorKind::FileTooLarge);
                        let step = u64::try_from(written).map_err(|_| past_end())?;
                        at = at.checked_add(step).ok_or_else(past_end)?;
                        IoSlice::advance_slices(&mut left, written);
                    }
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(at)
    }
}

impl ObjectWriter for DiskWriter {
    fn append(&mut self, parts: &[&[u8]]) -> Result<u64> {
        self.check()?;
        let offset = self.len;
        match self.write(parts) {
            Ok(end) => {
                self.len = end;
                Ok(offset)
            }
            Err(error) => {
                self.poisoned = self.file.set_len(self.len).is_err();
                Err(Error::from_io("append to the object", &self.name, error))
            }
        }
    }

    fn sync(&mut self) -> Result<()> {
        self.check()?;
        let mut done = self.file.sync_data();
        if done.is_ok() && !self.named {
            done = self.folders.sync_name(&self.name);
        }
        // After a failed sync the kernel may have thrown the bytes away and marked the pages clean.
        self.poisoned = done.is_err();
        self.named |= done.is_ok();
        done.map_err(|error| Error::from_io("sync the object", &self.name, error))
    }

    fn len(&self) -> u64 {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    fn writer(root: &tempfile::TempDir, file: File) -> DiskWriter {
        let folders = Arc::new(Folders::open(root.path().to_owned()).unwrap());
        DiskWriter::new("folder/object", file, 0, folders)
    }

    fn assert_poisoned(writer: &mut DiskWriter) {
        for result in [writer.append(&[b"x"]).map(drop), writer.sync()] {
            assert!(matches!(result, Err(Error::Poisoned { .. })), "{result:?}");
        }
    }

    #[test]
    fn a_full_device_that_cannot_be_cut_back_poisons() {
        let root = tempfile::tempdir().unwrap();
        let full = OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
        let mut writer = writer(&root, full);
        assert!(matches!(writer.append(&[b"x"]), Err(Error::Full { .. })));
        assert_eq!(writer.len(), 0);
        assert_poisoned(&mut writer);
    }

    #[test]
    fn a_failed_sync_of_the_bytes_poisons() {
        let root = tempfile::tempdir().unwrap();
        let (_, pipe) = io::pipe().unwrap();
        let mut writer = writer(&root, std::os::fd::OwnedFd::from(pipe).into());
        assert!(matches!(writer.sync(), Err(Error::Io { doing: "sync the object", .. })));
        assert_poisoned(&mut writer);
    }

    #[test]
    fn a_failed_sync_of_the_name_poisons() {
        let root = tempfile::tempdir().unwrap();
        let mut writer = writer(&root, tempfile::tempfile().unwrap());
        assert_eq!(writer.append(&[b"x"]).unwrap(), 0);
        writer.sync().expect_err("there is no such folder");
        assert_poisoned(&mut writer);
    }
}
