//! Compiled modules of Python (`.pyc`, as CPython from 3.11 on writes them: `marshal.c`).
//!
//! Code, tables of lines, numbers of references and texts lie between one another, and are unlike. They are put behind
//! the rest, each kind by itself, for several modules at once: the more of them, the more each kind is like itself.
//! What stays in its place has the lengths of what was taken out, so it says where that belongs.

use memchr::memmem;

use super::columns;

/// The fields before a module's object: version, flags, and what tells whether its source changed.
const HEAD: usize = 16;

/// The versions of bytecode whose objects are known: those of 3.11 to 3.14.
const VERSIONS: std::ops::RangeInclusive<u16> = 3495..=3699;

/// How deep objects may lie in one another, at most; CPython allows 2000.
const MAX_DEPTH: usize = 200;

/// What is put behind the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Lines,
    References,
    Text,
}

const KINDS: usize = 4;

/// What a walk over a module's parts does with their bytes.
trait Parts {
    /// Takes bytes that stay in place, and returns them.
    fn stay(&mut self, len: usize) -> Option<&[u8]>;

    /// Takes bytes that are put behind.
    fn leave(&mut self, kind: Kind, len: usize) -> Option<()>;
}

/// Walks over one module.
fn module(parts: &mut impl Parts) -> Option<()> {
    parts.stay(HEAD)?;
    object(parts, None, MAX_DEPTH)
}

/// Walks over an object; if it is bytes, these are of this kind.
fn object(parts: &mut impl Parts, kind: Option<Kind>, depth: usize) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    // The highest bit only says that others refer to it.
    let tag = parts.stay(1)?.first()? & 0x7f;
    match tag {
        b'0' | b'N' | b'F' | b'T' | b'S' | b'.' => Some(()),
        b'i' => parts.stay(4).map(drop),
        b'g' => parts.stay(8).map(drop),
        b'y' => parts.stay(16).map(drop),
        b'r' => parts.leave(Kind::References, 4),
        b'l' => {
            let digits = number(parts)?.cast_signed().unsigned_abs();
            stay(parts, usize::try_from(digits).ok()?.checked_mul(2)?)
        }
        b's' | b'u' | b't' | b'a' | b'A' => {
            let len = usize::try_from(number(parts)?).ok()?;
            match kind {
                Some(kind) => parts.leave(kind, len),
                None => parts.leave(Kind::Text, len),
            }
        }
        b'z' | b'Z' => {
            let len = usize::from(*parts.stay(1)?.first()?);
            parts.leave(Kind::Text, len)
        }
        b')' => {
            let count = *parts.stay(1)?.first()?;
            (0..count).try_for_each(|_| object(parts, None, depth))
        }
        b'(' | b'[' | b'<' | b'>' => {
            let count = number(parts)?;
            (0..count).try_for_each(|_| object(parts, None, depth))
        }
        b'c' => code(parts, depth),
        _ => None,
    }
}

/// Walks over what is known of a function.
fn code(parts: &mut impl Parts, depth: usize) -> Option<()> {
    // How many arguments of three sorts it has, the depth of its stack, and flags.
    parts.stay(20)?;
    object(parts, Some(Kind::Code), depth)?;
    // Constants, names, variables and their kinds, file, name and qualified name.
    (0..7).try_for_each(|_| object(parts, None, depth))?;
    // The first line.
    parts.stay(4)?;
    object(parts, Some(Kind::Lines), depth)?;
    // What catches exceptions.
    object(parts, None, depth)
}

fn number(parts: &mut impl Parts) -> Option<u32> {
    parts.stay(4)?.first_chunk().copied().map(u32::from_le_bytes)
}

fn stay(parts: &mut impl Parts, len: usize) -> Option<()> {
    parts.stay(len).map(drop)
}

/// Splits modules.
struct Split<'a> {
    from: &'a [u8],
    rest: Vec<u8>,
    left: [Vec<u8>; KINDS],
}

impl Parts for Split<'_> {
    fn stay(&mut self, len: usize) -> Option<&[u8]> {
        let taken = self.from.split_off(..len)?;
        self.rest.extend_from_slice(taken);
        Some(taken)
    }

    fn leave(&mut self, kind: Kind, len: usize) -> Option<()> {
        let taken = self.from.split_off(..len)?;
        self.left[kind as usize].extend_from_slice(taken);
        Some(())
    }
}

/// Counts what was put behind.
struct Count<'a> {
    rest: &'a [u8],
    left: [usize; KINDS],
    /// How many bytes there are, of all kinds.
    room: usize,
}

impl Parts for Count<'_> {
    fn stay(&mut self, len: usize) -> Option<&[u8]> {
        self.rest.split_off(..len)
    }

    fn leave(&mut self, kind: Kind, len: usize) -> Option<()> {
        self.room = self.room.checked_sub(len)?;
        self.left[kind as usize] += len;
        Some(())
    }
}

/// Puts modules together again.
struct Join<'a> {
    rest: &'a [u8],
    left: [&'a [u8]; KINDS],
    out: Vec<u8>,
}

impl Parts for Join<'_> {
    fn stay(&mut self, len: usize) -> Option<&[u8]> {
        let taken = self.rest.split_off(..len)?;
        self.out.extend_from_slice(taken);
        Some(taken)
    }

    fn leave(&mut self, kind: Kind, len: usize) -> Option<()> {
        let taken = self.left[kind as usize].split_off(..len)?;
        self.out.extend_from_slice(taken);
        Some(())
    }
}

/// Splits so many modules, one behind the other; `None` if that is not what the bytes are.
pub(super) fn forward(modules: &[u8], count: usize) -> Option<Vec<u8>> {
    let mut split = Split { from: modules, rest: Vec::with_capacity(modules.len()), left: Default::default() };
    (0..count).try_for_each(|_| module(&mut split))?;
    let Split { from: [], mut rest, left: [code, lines, mut references, text] } = split else { return None };
    columns::split::<4>(&mut references);
    for kind in [text, code, lines, references] {
        rest.extend(kind);
    }
    Some(rest)
}

/// Undoes [`forward`]; `None` if it did not make these bytes.
pub(super) fn inverse(modules: &[u8], count: usize) -> Option<Vec<u8>> {
    let mut counted = Count { rest: modules, left: [0; KINDS], room: modules.len() };
    (0..count).try_for_each(|_| module(&mut counted))?;
    let [code, lines, references, text] = counted.left;
    let rest = modules.len().checked_sub(code + lines + references + text)?;
    let (rest, behind) = modules.split_at_checked(rest)?;
    let (text, behind) = behind.split_at_checked(text)?;
    let (code, behind) = behind.split_at_checked(code)?;
    let (lines, references) = behind.split_at_checked(lines)?;
    let mut references = references.to_vec();
    columns::join::<4>(&mut references);
    let mut join = Join { rest, left: [code, lines, &references, text], out: Vec::with_capacity(modules.len()) };
    (0..count).try_for_each(|_| module(&mut join))?;
    Some(join.out).filter(|out| out.len() == modules.len())
}

/// Returns where modules are that [`forward`] can take, in order.
pub(super) fn find(data: &[u8]) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
    let mut end = 0;
    // What only looks like modules is looked through twice at most.
    let mut left = 2 * data.len();
    memmem::find_iter(data, b"\r\n").filter_map(move |at| {
        let start = at.checked_sub(2).filter(|&start| start >= end)?;
        let head: &[u8; HEAD] = data[start..].first_chunk()?;
        let [v0, v1, _, _, 0..=3, 0, 0, 0, ..] = *head else { return None };
        if !VERSIONS.contains(&u16::from_le_bytes([v0, v1])) {
            return None;
        }
        let bytes = &data[start..];
        let mut skip = Skip(&bytes[..bytes.len().min(left)]);
        let before = skip.0.len();
        let whole = module(&mut skip);
        let len = before - skip.0.len();
        if whole.is_none() {
            left -= len;
            return None;
        }
        end = start + len;
        Some(start..end)
    })
}

/// Walks over modules that were not split.
struct Skip<'a>(&'a [u8]);

impl Parts for Skip<'_> {
    fn stay(&mut self, len: usize) -> Option<&[u8]> {
        self.0.split_off(..len)
    }

    fn leave(&mut self, _: Kind, len: usize) -> Option<()> {
        self.stay(len).map(drop)
    }
}
