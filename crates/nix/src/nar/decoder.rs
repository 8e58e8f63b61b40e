//! The push parser.

use super::words::{self, padding};
use super::{MAX_DEPTH, MAX_NAME_LEN, MAX_TARGET_LEN};

/// A step through a tree, in the order of its NAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A directory begins; its entries follow, and then [`Event::EndDirectory`].
    Directory,
    /// The next entry of the innermost directory has this name; the node itself follows.
    Entry {
        /// 1 to [`MAX_NAME_LEN`] bytes without `/` and NUL; greater than the name before.
        name: &'a [u8],
    },
    /// The innermost directory ends.
    EndDirectory,
    /// A regular file; [`Event::Contents`] that add up to `size` follow, none if it is 0.
    Regular {
        /// If it may be executed: all that a NAR says of permissions.
        executable: bool,
        /// Where in the NAR its contents begin.
        offset: u64,
        /// The length of its contents.
        size: u64,
    },
    /// Some of a file's contents, never empty. How they are split means nothing.
    Contents(&'a [u8]),
    /// A symbolic link.
    Symlink {
        /// Where it points: 1 to [`MAX_TARGET_LEN`] bytes without NUL.
        target: &'a [u8],
    },
}

/// Says why bytes are not a NAR; `at` counts bytes from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NarError {
    /// Other bytes than the grammar allows there.
    #[error("parse NAR: no {expected} at byte {at}")]
    Unexpected {
        /// The first byte that does not fit.
        at: u64,
        /// What would have fitted.
        expected: &'static str,
    },
    /// The bytes end in the middle.
    #[error("parse NAR: it ends at byte {at} in place of {expected}")]
    Truncated {
        /// The length.
        at: u64,
        /// What should have come.
        expected: &'static str,
    },
    /// There are bytes after the end.
    #[error("parse NAR: more bytes after its end at {at}")]
    Trailing {
        /// Where it ended.
        at: u64,
    },
    /// A name or target that no file system has.
    #[error("parse NAR: {why} before byte {at}")]
    Forbidden {
        /// Where it ends.
        at: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A directory whose entries are not in ascending order, or twice the same.
    #[error("parse NAR: entry out of order or twice before byte {at}")]
    Unsorted {
        /// Where the second name ends.
        at: u64,
    },
    /// More than we are ready to hold, or than 63 bits can count.
    #[error("parse NAR: {what} of more than {limit} at byte {at}")]
    TooLarge {
        /// Where it was declared.
        at: u64,
        /// What is too large.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

/// A run of fixed words, and what it announces.
#[derive(Debug)]
struct Run {
    bytes: &'static [u8],
    then: Next,
}

#[derive(Debug, Clone, Copy)]
enum Next {
    Node,
    DirectoryBody,
    Length(Kind),
    NodeEnd,
    DirectoryEnd,
}

/// What a length is the length of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Name,
    Target,
    Contents { executable: bool },
}

/// Runs of which one must come next; none is the beginning of another.
type Choice = &'static [Run];

const MAGIC: Choice = &[Run { bytes: words::MAGIC, then: Next::Node }];
const NODE: Choice = &[
    Run { bytes: words::REGULAR, then: Next::Length(Kind::Contents { executable: false }) },
    Run { bytes: words::EXECUTABLE, then: Next::Length(Kind::Contents { executable: true }) },
    Run { bytes: words::SYMLINK, then: Next::Length(Kind::Target) },
    Run { bytes: words::DIRECTORY, then: Next::DirectoryBody },
];
const NODE_WORD: Choice = &[Run { bytes: words::NODE, then: Next::Node }];
const BODY_OF_ROOT: Choice = &[
    Run { bytes: words::ENTRY, then: Next::Length(Kind::Name) },
    Run { bytes: words::CLOSE, then: Next::DirectoryEnd },
];
const BODY_OF_ENTRY: Choice = &[
    Run { bytes: words::ENTRY, then: Next::Length(Kind::Name) },
    Run { bytes: words::CLOSE_IN_ENTRY, then: Next::DirectoryEnd },
];
const END_OF_ROOT: Choice = &[Run { bytes: words::CLOSE, then: Next::NodeEnd }];
const END_OF_ENTRY: Choice = &[Run { bytes: words::CLOSE_IN_ENTRY, then: Next::NodeEnd }];

#[derive(Debug, Clone, Copy)]
enum State {
    /// The first `matched` bytes of `choice[run]` came, and no run before it can still match.
    Words {
        choice: Choice,
        run: usize,
        matched: usize,
        expected: &'static str,
    },
    Length {
        kind: Kind,
        bytes: [u8; 8],
        have: usize,
    },
    Text {
        kind: Kind,
        left: usize,
    },
    Contents {
        left: u64,
        padding: usize,
    },
    Padding {
        kind: Kind,
        left: usize,
    },
    Complete,
    Failed(NarError),
}

impl State {
    fn words(choice: Choice, expected: &'static str) -> Self {
        Self::Words { choice, run: 0, matched: 0, expected }
    }
}

/// A push parser: give it the bytes of a NAR in any pieces, it calls back with the [`Event`]s.
///
/// It accepts the canonical form only and holds a name or target that is not whole yet and the last name of each open directory,
/// nothing of the contents: less than 200 KiB in the worst case. After an error it gives the same error again.
///
/// ```
/// use firn_nix::nar::{Decoder, Event, Writer};
///
/// let mut writer = Writer::new(Vec::new());
/// writer.regular(false, 2)?;
/// writer.contents(b"hi")?;
/// let nar = writer.finish()?;
///
/// let mut decoder = Decoder::new();
/// let mut contents = Vec::new();
/// decoder.push(&nar, &mut |event| {
///     if let Event::Contents(bytes) = event {
///         contents.extend_from_slice(bytes);
///     }
/// })?;
/// decoder.finish()?;
/// assert_eq!(contents, b"hi");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Decoder {
    position: u64,
    state: State,
    /// A name or target of which a part came.
    text: Vec<u8>,
    /// The last names of the open directories, joined.
    last_names: Vec<u8>,
    /// For each open directory, where in `last_names` its last name begins.
    open: Vec<usize>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// Returns a decoder that stands before the first byte of a NAR.
    #[must_use]
    pub fn new() -> Self {
        Self {
            position: 0,
            state: State::words(MAGIC, "`nix-archive-1`"),
            text: Vec::new(),
            last_names: Vec::new(),
            open: Vec::new(),
        }
    }

    /// Takes the next bytes and calls `on` for each event that they complete.
    ///
    /// Events are the same however the bytes are split, but for the splits of contents. Those before an error were given.
    pub fn push(&mut self, input: &[u8], on: &mut dyn FnMut(Event<'_>)) -> Result<(), NarError> {
        let mut input = input;
        while !input.is_empty() {
            if let Err(error) = self.step(&mut input, on) {
                self.state = State::Failed(error);
                return Err(error);
            }
        }
        match self.state {
            State::Failed(error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns an error if the NAR is not whole (or was wrong before).
    pub fn finish(&self) -> Result<(), NarError> {
        let expected = match self.state {
            State::Complete => return Ok(()),
            State::Failed(error) => return Err(error),
            State::Words { expected, .. } => expected,
            State::Length { .. } => "a length",
            State::Text { kind: Kind::Name, .. } => "the rest of a name",
            State::Text { .. } => "the rest of a symlink's target",
            State::Contents { .. } => "the rest of a file",
            State::Padding { .. } => "padding",
        };
        Err(NarError::Truncated { at: self.position, expected })
    }

    /// Returns how many bytes of the NAR were taken or skipped.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Says if the NAR is whole: any further byte is an error.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::Complete)
    }

    /// Returns how many of the next bytes are contents of the current file.
    #[must_use]
    pub fn contents_left(&self) -> u64 {
        match self.state {
            State::Contents { left, .. } => left,
            _ => 0,
        }
    }

    /// Goes on as if the next `n` bytes, or those that are left of the current file if these are fewer, had been pushed, without
    /// an event; returns how many they are.
    pub fn skip_contents(&mut self, n: u64) -> u64 {
        let State::Contents { left, padding } = self.state else {
            return 0;
        };
        let skipped = n.min(left);
        self.position += skipped;
        self.leave_contents(left - skipped, padding);
        skipped
    }

    /// Takes at least one byte of `input`, which is not empty.
    #[inline]
    fn step(&mut self, input: &mut &[u8], on: &mut dyn FnMut(Event<'_>)) -> Result<(), NarError> {
        match self.state {
            State::Words { choice, run, matched, expected } => {
                self.take_words(input, choice, run, matched, expected, on)
            }
            State::Length { kind, bytes, have } => self.take_length(input, kind, bytes, have, on),
            State::Text { kind, left } => self.take_text(input, kind, left, on),
            State::Contents { left, padding } => {
                let bytes = self.take(input, usize::try_from(left).unwrap_or(usize::MAX));
                on(Event::Contents(bytes));
                self.leave_contents(left - bytes.len() as u64, padding);
                Ok(())
            }
            State::Padding { kind, left } => self.take_padding(input, kind, left),
            State::Complete => Err(NarError::Trailing { at: self.position }),
            State::Failed(error) => Err(error),
        }
    }

    /// Takes at most `n` bytes off the front of `input`.
    fn take<'a>(&mut self, input: &mut &'a [u8], n: usize) -> &'a [u8] {
        let (taken, rest) = input.split_at(n.min(input.len()));
        *input = rest;
        self.position += taken.len() as u64;
        taken
    }

    fn take_words(
        &mut self,
        input: &mut &[u8],
        choice: Choice,
        run: usize,
        matched: usize,
        expected: &'static str,
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), NarError> {
        let Run { bytes, then } = &choice[run];
        let common = common_prefix(input, &bytes[matched..]);
        self.take(input, common);
        let matched = matched + common;
        if matched == bytes.len() {
            return self.enter(*then, on);
        }
        let Some(&next) = input.first() else {
            self.state = State::Words { choice, run, matched, expected };
            return Ok(());
        };
        let fits = |other: &Run| other.bytes.starts_with(&bytes[..matched]) && other.bytes.get(matched) == Some(&next);
        let Some(run) = choice.iter().position(fits) else {
            return Err(NarError::Unexpected { at: self.position, expected });
        };
        self.take(input, 1);
        self.state = State::Words { choice, run, matched: matched + 1, expected };
        Ok(())
    }

    /// Goes to what a run of words announced.
    fn enter(&mut self, next: Next, on: &mut dyn FnMut(Event<'_>)) -> Result<(), NarError> {
        match next {
            Next::Node => self.state = State::words(NODE, "regular file, directory or symlink"),
            Next::Length(kind) => self.state = State::Length { kind, bytes: [0; 8], have: 0 },
            Next::DirectoryBody => {
                if self.open.len() == MAX_DEPTH {
                    return Err(self.too_large("nested directories", MAX_DEPTH as u64));
                }
                self.open.push(self.last_names.len());
                on(Event::Directory);
                self.enter_body();
            }
            Next::DirectoryEnd => {
                let start = self.open.pop().expect("this run is only expected in a directory");
                self.last_names.truncate(start);
                on(Event::EndDirectory);
                self.enter_body();
            }
            Next::NodeEnd => self.enter_body(),
        }
        Ok(())
    }

    /// Expects the next entry of the innermost directory, or its end; or nothing if none is open.
    fn enter_body(&mut self) {
        let expected = "directory entry or end of directory";
        self.state = match self.open.len() {
            0 => State::Complete,
            1 => State::words(BODY_OF_ROOT, expected),
            _ => State::words(BODY_OF_ENTRY, expected),
        };
    }

    fn take_length(
        &mut self,
        input: &mut &[u8],
        kind: Kind,
        mut bytes: [u8; 8],
        have: usize,
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), NarError> {
        let at = self.position - have as u64;
        let taken = self.take(input, 8 - have);
        let have_now = have + taken.len();
        bytes[have..have_now].copy_from_slice(taken);
        if have_now < 8 {
            self.state = State::Length { kind, bytes, have: have_now };
            return Ok(());
        }
        let len = u64::from_le_bytes(bytes);
        let (what, limit) = match kind {
            Kind::Name => ("name", MAX_NAME_LEN as u64),
            Kind::Target => ("symlink target", MAX_TARGET_LEN as u64),
            Kind::Contents { .. } => ("file", MAX_LEN.saturating_sub(self.position)),
        };
        if len > limit {
            return Err(NarError::TooLarge { at, what, limit });
        }
        if let Kind::Contents { executable } = kind {
            on(Event::Regular { executable, offset: self.position, size: len });
            self.leave_contents(len, padding(len));
            return Ok(());
        }
        if len == 0 {
            return Err(self.forbidden("empty name or target"));
        }
        self.text.clear();
        self.state = State::Text { kind, left: len as usize };
        Ok(())
    }

    fn leave_contents(&mut self, left: u64, padding: usize) {
        self.state = State::Contents { left, padding };
        if left == 0 {
            self.enter_padding(Kind::Contents { executable: false }, padding);
        }
    }

    fn take_text(
        &mut self,
        input: &mut &[u8],
        kind: Kind,
        left: usize,
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), NarError> {
        let taken = self.take(input, left);
        if taken.len() == left && self.text.is_empty() {
            return self.end_text(kind, taken, on);
        }
        self.text.extend_from_slice(taken);
        if taken.len() < left {
            self.state = State::Text { kind, left: left - taken.len() };
            return Ok(());
        }
        let text = std::mem::take(&mut self.text);
        let result = self.end_text(kind, &text, on);
        self.text = text;
        result
    }

    fn end_text(&mut self, kind: Kind, text: &[u8], on: &mut dyn FnMut(Event<'_>)) -> Result<(), NarError> {
        if kind == Kind::Name {
            self.check_name(text)?;
            on(Event::Entry { name: text });
        } else if text.contains(&0) {
            return Err(self.forbidden("symlink target with a NUL"));
        } else {
            on(Event::Symlink { target: text });
        }
        self.enter_padding(kind, padding(text.len() as u64));
        Ok(())
    }

    fn check_name(&mut self, name: &[u8]) -> Result<(), NarError> {
        if let Some(why) = why_not_a_name(name) {
            return Err(self.forbidden(why));
        }
        let start = *self.open.last().expect("names are only expected in a directory");
        if name <= &self.last_names[start..] {
            return Err(NarError::Unsorted { at: self.position });
        }
        self.last_names.truncate(start);
        self.last_names.extend_from_slice(name);
        Ok(())
    }

    fn take_padding(&mut self, input: &mut &[u8], kind: Kind, left: usize) -> Result<(), NarError> {
        let start = self.position;
        let taken = self.take(input, left);
        if let Some(at) = taken.iter().position(|&byte| byte != 0) {
            return Err(NarError::Unexpected { at: start + at as u64, expected: "zero for padding" });
        }
        self.enter_padding(kind, left - taken.len());
        Ok(())
    }

    fn enter_padding(&mut self, kind: Kind, left: usize) {
        self.state = match kind {
            _ if left > 0 => State::Padding { kind, left },
            Kind::Name => State::words(NODE_WORD, "`node`"),
            _ if self.open.is_empty() => State::words(END_OF_ROOT, "end of the root"),
            _ => State::words(END_OF_ENTRY, "end of the entry"),
        };
    }

    fn forbidden(&self, why: &'static str) -> NarError {
        NarError::Forbidden { at: self.position, why }
    }

    fn too_large(&self, what: &'static str, limit: u64) -> NarError {
        NarError::TooLarge { at: self.position, what, limit }
    }
}

/// The most bytes that are counted: no sum of offset, length and padding overflows below it.
const MAX_LEN: u64 = i64::MAX as u64;

/// Says what is wrong with a file name of allowed length, if anything.
pub(super) fn why_not_a_name(name: &[u8]) -> Option<&'static str> {
    match name {
        b"." | b".." => Some("name `.` or `..`"),
        _ if name.iter().any(|&byte| byte == b'/' || byte == 0) => Some("name with `/` or NUL"),
        _ => None,
    }
}

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let n = a.len().min(b.len());
    if a[..n] == b[..n] { n } else { a.iter().zip(b).take_while(|(x, y)| x == y).count() }
}
