//! Machine code for x86-64: operands that are relative to the next instruction become absolute, and go behind the rest.
//!
//! Calls, long jumps and accesses relative to `rip` hold the distance to their target, which differs wherever the same
//! target is meant; its address is the same. Put behind the code, each kind by itself, they no longer interrupt what is
//! alike in it. Instructions are told apart by their lengths alone (Intel's manual, volume 2, appendix A, opcode maps), which
//! follow from nothing that is changed. The idea is that of "BCJ" filters, which look for calls alone.

/// Bytes that an instruction with its longest prefixes, as read here, may take. The last ones of a segment stay as they are.
const LOOK_AHEAD: usize = 32;

/// Prefixes in a row, REX apart, that are read as part of one instruction.
const MAX_PREFIXES: usize = 6;

/// The kinds of operands: of calls and jumps, of conditional jumps, and of accesses.
const KINDS: usize = 3;

/// How many operands of each kind a segment has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts(pub(super) [u32; KINDS]);

impl Counts {
    /// Counts the operands of a segment.
    pub(super) fn of(code: &[u8]) -> Self {
        let mut counts = Self::default();
        look(code, |operand, _| counts.0[operand.kind as usize] += 1);
        counts
    }

    /// Divides what is behind the rest of `code` by kinds; `None` if there is not so much.
    fn divide<'a>(&self, code: &'a [u8]) -> Option<(&'a [u8], Operands<'a>)> {
        let bytes: u64 = self.0.iter().map(|&count| 4 * u64::from(count)).sum();
        let rest = code.len().checked_sub(usize::try_from(bytes).ok()?)?;
        let (rest, mut behind) = code.split_at_checked(rest)?;
        let mut operands = [&[][..]; KINDS];
        for (operands, count) in operands.iter_mut().zip(self.0) {
            let (taken, after) = behind.split_at_checked(4 * usize::try_from(count).ok()?)?;
            (*operands, behind) = (taken.as_chunks().0, after);
        }
        Some((rest, operands))
    }
}

/// The operands of each kind, absolute.
type Operands<'a> = [&'a [[u8; 4]]; KINDS];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Call,
    Conditional,
    Access,
}

/// An operand of four bytes, relative to what follows the instruction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operand {
    /// Where it is.
    pub(super) at: usize,
    /// Where the next instruction is.
    pub(super) next: usize,
    kind: Kind,
}

/// Calls `seen` with each operand and its value, in order.
pub(super) fn look(code: &[u8], mut seen: impl FnMut(Operand, u32)) {
    let mut at = 0;
    while let Some(window) = code.get(at..).and_then(<[u8]>::first_chunk) {
        let instruction = Instruction::of(window);
        if let Some((offset, kind)) = instruction.operand
            && let Some(bytes) = window.get(offset..).and_then(<[u8]>::first_chunk)
        {
            let operand = Operand { at: at + offset, next: at + instruction.len, kind };
            seen(operand, u32::from_le_bytes(*bytes));
        }
        at += instruction.len;
    }
}

/// Makes the operands of a segment, whose place is `origin`, absolute, and puts them behind the rest.
pub(super) fn forward(code: &mut [u8], origin: u32) {
    let mut operands: [Vec<[u8; 4]>; KINDS] = Default::default();
    let mut rest = Vec::with_capacity(code.len());
    let mut end = 0;
    look(code, |operand, distance| {
        rest.extend_from_slice(&code[end..operand.at]);
        end = operand.at + 4;
        operands[operand.kind as usize].push(absolute(distance, next(origin, operand.next)));
    });
    rest.extend_from_slice(&code[end..]);
    for operands in &operands {
        rest.extend_from_slice(operands.as_flattened());
    }
    code.copy_from_slice(&rest);
}

/// Undoes [`forward`], given how many operands there were; leaves a segment as it is that does not have so many.
pub(super) fn inverse(code: &mut [u8], origin: u32, counts: Counts) {
    let joined = counts.divide(code).and_then(|(rest, operands)| join(rest, operands, code.len(), origin));
    if let Some(joined) = joined {
        code.copy_from_slice(&joined);
    }
}

/// Puts operands where they belong in the rest of `len` bytes of code.
fn join(rest: &[u8], operands: Operands<'_>, len: usize, origin: u32) -> Option<Vec<u8>> {
    let mut operands = operands.map(<[_]>::iter);
    // Whole windows are read and written, of which only a part counts.
    let padded = [rest, &[0; 2 * LOOK_AHEAD]].concat();
    let mut out = vec![0; len + 2 * LOOK_AHEAD];
    let (mut from, mut to) = (0, 0);
    while to + LOOK_AHEAD <= len {
        let window: &[u8; LOOK_AHEAD] = padded.get(from..)?.first_chunk()?;
        let instruction = Instruction::of(window);
        out.get_mut(to..)?.first_chunk_mut::<LOOK_AHEAD>()?.copy_from_slice(window);
        if let Some((offset, kind)) = instruction.operand {
            let next = next(origin, to + instruction.len);
            let distance = relative(*operands[kind as usize].next()?, next);
            let behind: &[u8; LOOK_AHEAD] = padded.get(from + offset..)?.first_chunk()?;
            let place = out.get_mut(to + offset..)?;
            place.first_chunk_mut::<4>()?.copy_from_slice(&distance.to_le_bytes());
            place.get_mut(4..)?.first_chunk_mut::<LOOK_AHEAD>()?.copy_from_slice(behind);
            from += instruction.len - 4;
        } else {
            from += instruction.len;
        }
        to += instruction.len;
    }
    let tail = rest.get(from..)?;
    out.truncate(to);
    out.extend_from_slice(tail);
    let is_all = operands.iter().all(|operands| operands.len() == 0);
    (out.len() == len && is_all).then_some(out)
}

/// Returns an absolute operand, the high bytes first: they are what near targets have in common. Zeros stay, which linkers
/// have not filled in yet; the operand that would become zero becomes what zero would have.
fn absolute(distance: u32, next: u32) -> [u8; 4] {
    let target = match distance {
        0 => 0,
        _ if distance.wrapping_add(next) == 0 => next,
        _ => distance.wrapping_add(next),
    };
    target.to_be_bytes()
}

/// Undoes [`absolute`].
fn relative(operand: [u8; 4], next: u32) -> u32 {
    match u32::from_be_bytes(operand) {
        0 => 0,
        target if target == next => next.wrapping_neg(),
        target => target.wrapping_sub(next),
    }
}

fn next(origin: u32, at: usize) -> u32 {
    // A frame has less than 2^32 bytes.
    origin.wrapping_add(u32::try_from(at).unwrap_or_default())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    len: usize,
    /// Where its relative operand begins.
    operand: Option<(usize, Kind)>,
}

/// What follows an opcode, as bits; the lowest four are the bytes of immediate operands that depend on nothing.
type Form = u16;
const IMMEDIATE: Form = 15;
const MODRM: Form = 1 << 4;
/// Another immediate operand of four bytes, of two with an operand-size prefix.
const SIZED: Form = 1 << 5;
/// The immediate operand of four bytes is a distance.
const RELATIVE: Form = 1 << 6;
/// Not an opcode yet.
const PREFIX: Form = 1 << 7;
/// Only some instructions of the opcode have immediate operands, by a part of the form's byte: of one byte, or sized.
const SOME_BYTE: Form = 1 << 8;
const SOME_SIZED: Form = 1 << 9;
/// The sized operand has eight bytes with REX.W.
const WIDE: Form = 1 << 10;
/// The first byte of an opcode that [`escaped`] reads.
const ESCAPE: Form = 1 << 11;

/// What follows opcodes of one byte, and then those behind 0x0f.
static FORMS: [Form; 512] = {
    let mut forms = [0; 512];
    let mut opcode = 0;
    while opcode < 256 {
        forms[opcode] = one_byte(opcode);
        forms[256 + opcode] = two_bytes(opcode);
        opcode += 1;
    }
    forms
};

/// Flags of [`MODRM_BYTES`]: the distance is relative to `rip`; the index may have a distance of its own, not counted.
const IS_RELATIVE: u8 = 1 << 7;
const HAS_INDEX: u8 = 1 << 6;
const PLACE_FLAGS: u8 = IS_RELATIVE | HAS_INDEX;

/// The bytes of a form's byte, its index and its distance, and flags.
static MODRM_BYTES: [u8; 256] = {
    let mut lens = [0; 256];
    let mut modrm = 0;
    while modrm < 256 {
        let (mode, register) = (modrm >> 6, modrm & 7);
        lens[modrm] = match (mode, register) {
            (0, 5) => 5 | IS_RELATIVE,
            (0, 4) => 2 | HAS_INDEX,
            (1, 4) => 3,
            (2, 4) => 6,
            (1, _) => 2,
            (2, _) => 5,
            _ => 1,
        };
        modrm += 1;
    }
    lens
};

const fn one_byte(opcode: usize) -> Form {
    match opcode {
        0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3 => PREFIX,
        0x62 | 0xc4 | 0xc5 => ESCAPE,
        0x00..=0x3f => match opcode & 7 {
            0..=3 => MODRM,
            4 => 1,
            5 => SIZED,
            _ => 0,
        },
        0x63 | 0x84..=0x8f | 0xd0..=0xd3 | 0xd8..=0xdf | 0xfe | 0xff => MODRM,
        0x6b | 0x80 | 0x82 | 0x83 | 0xc0 | 0xc1 | 0xc6 => MODRM | 1,
        0x69 | 0x81 | 0xc7 => MODRM | SIZED,
        0xf6 => MODRM | SOME_BYTE,
        0xf7 => MODRM | SOME_SIZED,
        0x68 | 0xa9 => SIZED,
        0xb8..=0xbf => SIZED | WIDE,
        0x6a | 0x70..=0x7f | 0xa8 | 0xb0..=0xb7 | 0xcd | 0xe0..=0xe7 | 0xeb => 1,
        0xc2 | 0xca => 2,
        0xc8 => 3,
        0xa0..=0xa3 => 8,
        0xe8 | 0xe9 => RELATIVE | 4,
        _ => 0,
    }
}

const fn two_bytes(opcode: usize) -> Form {
    match opcode {
        0x38 | 0x3a => ESCAPE,
        0x05..=0x09 | 0x0b | 0x0e | 0x30..=0x37 | 0x77 | 0xa0..=0xa2 | 0xa8..=0xaa | 0xc8..=0xcf => 0,
        0x80..=0x8f => RELATIVE | 4,
        0x70..=0x73 | 0xa4 | 0xac | 0xba | 0xc2 | 0xc4..=0xc6 => MODRM | 1,
        _ => MODRM,
    }
}

impl Instruction {
    /// Reads the instruction at the front of `bytes`. Every index is below 20: six prefixes and REX, five bytes of opcode at most,
    /// and of what follows only the form's byte and its index.
    ///
    /// What is frequent takes few branches, as processors can't foresee them here, and one load of memory besides the tables.
    #[inline]
    fn of(bytes: &[u8; LOOK_AHEAD]) -> Self {
        let mut window = word(bytes, 0);
        let (mut at, mut is_short) = (0, false);
        if FORMS[usize::from(bytes[0])] & PREFIX != 0 {
            while at < MAX_PREFIXES && FORMS[usize::from(bytes[at])] & PREFIX != 0 {
                is_short |= bytes[at] == 0x66;
                at += 1;
            }
            window = word(bytes, at);
        }
        let has_rex = window & 0xf0 == 0x40;
        let is_wide = has_rex && window & 8 != 0;
        window >>= 8 * u64::from(has_rex);
        let has_two = window & 0xff == 0x0f;
        window >>= 8 * u64::from(has_two);
        at += usize::from(has_rex) + usize::from(has_two);
        let [opcode, modrm, ..] = window.to_le_bytes();
        let form = FORMS[usize::from(has_two) << 8 | usize::from(opcode)];
        let place = if form & MODRM != 0 { MODRM_BYTES[usize::from(modrm)] } else { 0 };
        if form & !(MODRM | IMMEDIATE) == 0 && place & PLACE_FLAGS == 0 {
            return Self { len: at + 1 + usize::from(place) + usize::from(form & IMMEDIATE), operand: None };
        }
        Self::unusual(bytes, at, form, Prefixes { is_short, is_wide, has_two })
    }

    /// Reads one with a distance or an operand whose length depends on more than the opcode.
    #[inline]
    fn unusual(bytes: &[u8; LOOK_AHEAD], at: usize, form: Form, prefixes: Prefixes) -> Self {
        let (at, form) = if form & ESCAPE == 0 { (at, form) } else { escaped(bytes, at) };
        if form & RELATIVE != 0 {
            let kind = if prefixes.has_two { Kind::Conditional } else { Kind::Call };
            return Self { len: at + 5, operand: Some((at + 1, kind)) };
        }
        let modrm = bytes[at + 1];
        let place = if form & MODRM != 0 { MODRM_BYTES[usize::from(modrm)] } else { 0 };
        let own_distance = place & HAS_INDEX != 0 && bytes[at + 2] & 7 == 5;
        let has_some = modrm & 0x30 == 0;
        let is_sized = form & SIZED != 0 || (form & SOME_SIZED != 0 && has_some);
        let sized = match (is_sized, form & WIDE != 0 && prefixes.is_wide, prefixes.is_short) {
            (false, ..) => 0,
            (true, true, _) => 8,
            (true, false, true) => 2,
            (true, false, false) => 4,
        };
        let len = at
            + 1
            + usize::from(place & !PLACE_FLAGS)
            + 4 * usize::from(own_distance)
            + usize::from(form & IMMEDIATE)
            + usize::from(form & SOME_BYTE != 0 && has_some)
            + sized;
        Self { len, operand: (place & IS_RELATIVE != 0).then_some((at + 2, Kind::Access)) }
    }
}

/// What comes before an opcode.
#[derive(Debug, Clone, Copy)]
struct Prefixes {
    /// Operands have two bytes instead of four.
    is_short: bool,
    /// They may have eight.
    is_wide: bool,
    /// The opcode is of the second map.
    has_two: bool,
}

fn word(bytes: &[u8; LOOK_AHEAD], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// Returns where an opcode's last byte is, which begins at `at` with VEX or EVEX or comes from the maps behind 0x0f, and what
/// follows it.
#[cold]
fn escaped(bytes: &[u8; LOOK_AHEAD], at: usize) -> (usize, Form) {
    match bytes[at] {
        0x38 => (at + 1, MODRM),
        0x3a => (at + 1, MODRM | 1),
        0xc5 => (at + 2, extended(1, bytes[at + 2])),
        0xc4 => (at + 3, extended(bytes[at + 1] & 31, bytes[at + 3])),
        _ => (at + 4, extended(bytes[at + 1] & 7, bytes[at + 4])),
    }
}

/// Returns what follows an opcode of a map that VEX or EVEX names; there are no distances behind these.
fn extended(map: u8, opcode: u8) -> Form {
    match (map, opcode) {
        (1, 0x77) => 0,
        (1, 0x80..=0x8f) => MODRM,
        (1, _) => FORMS[256 + usize::from(opcode)] & IMMEDIATE | MODRM,
        (3, _) => MODRM | 1,
        _ => MODRM,
    }
}
