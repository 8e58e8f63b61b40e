//! Machine code for x86-64: operands that are relative to the next instruction become absolute.
//!
//! Calls, long jumps and accesses relative to `rip` hold the distance to their target, which differs wherever the same
//! target is meant; its address is the same. Instructions are told apart by their lengths alone (Intel's manual, volume 2,
//! appendix A, opcode maps): operands are changed and nothing that lengths follow from, so both directions see the same
//! instructions, whatever the bytes are. The idea is that of "BCJ" filters, which look for calls alone.

/// Bytes that an instruction with its longest prefixes, as read here, may take. The last ones of a segment stay as they are.
const LOOK_AHEAD: usize = 32;

/// Prefixes in a row, REX apart, that are read as part of one instruction.
const MAX_PREFIXES: usize = 6;

/// An operand of four bytes, relative to what follows the instruction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operand {
    /// Where it is.
    pub(super) at: usize,
    /// Where the next instruction is.
    pub(super) next: usize,
}

/// Calls `change` with each operand, in order; it may change the operand's four bytes and no others.
fn walk(code: &mut [u8], mut change: impl FnMut(&mut [u8; 4], Operand)) {
    let mut at = 0;
    while let Some(window) = code.get(at..).and_then(<[u8]>::first_chunk) {
        let instruction = Instruction::of(window);
        if let Some(offset) = instruction.operand {
            let operand = Operand { at: at + offset, next: at + instruction.len };
            if let Some(bytes) = code.get_mut(operand.at..).and_then(<[u8]>::first_chunk_mut) {
                change(bytes, operand);
            }
        }
        at += instruction.len;
    }
}

/// Calls `seen` with each operand and its value.
pub(super) fn look(code: &[u8], mut seen: impl FnMut(Operand, u32)) {
    let mut at = 0;
    while let Some(window) = code.get(at..).and_then(<[u8]>::first_chunk) {
        let instruction = Instruction::of(window);
        if let Some(offset) = instruction.operand
            && let Some(bytes) = window.get(offset..).and_then(<[u8]>::first_chunk)
        {
            seen(Operand { at: at + offset, next: at + instruction.len }, u32::from_le_bytes(*bytes));
        }
        at += instruction.len;
    }
}

/// Makes operands absolute; `origin` is the segment's place. Zeros stay, which linkers have not filled in yet; the operand that
/// would become zero becomes what zero would have.
pub(super) fn forward(code: &mut [u8], origin: u32) {
    walk(code, |bytes, operand| {
        let next = next(origin, operand);
        let target = match u32::from_le_bytes(*bytes) {
            0 => 0,
            distance if distance.wrapping_add(next) == 0 => next,
            distance => distance.wrapping_add(next),
        };
        // The high bytes first: they are what near targets have in common.
        *bytes = target.to_be_bytes();
    });
}

/// Undoes [`forward`].
pub(super) fn inverse(code: &mut [u8], origin: u32) {
    walk(code, |bytes, operand| {
        let next = next(origin, operand);
        let distance = match u32::from_be_bytes(*bytes) {
            0 => 0,
            target if target == next => next.wrapping_neg(),
            target => target.wrapping_sub(next),
        };
        *bytes = distance.to_le_bytes();
    });
}

fn next(origin: u32, operand: Operand) -> u32 {
    // A frame has less than 2^32 bytes.
    origin.wrapping_add(u32::try_from(operand.next).unwrap_or_default())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    len: usize,
    /// Where its relative operand begins.
    operand: Option<usize>,
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

/// The bytes of a form's byte, its index and its distance; not those of an index that has a distance of its own.
static MODRM_BYTES: [u8; 256] = {
    let mut lens = [0; 256];
    let mut modrm = 0;
    while modrm < 256 {
        let (mode, register) = (modrm >> 6, modrm & 7);
        lens[modrm] = match (mode, register) {
            (0, 5) => 5,
            (0, 4) => 2,
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
    /// and of what follows only the form's byte and its index. Few branches, as processors can't foresee them here.
    #[inline]
    fn of(bytes: &[u8; LOOK_AHEAD]) -> Self {
        let (mut at, mut is_short) = (0, false);
        while at < MAX_PREFIXES && FORMS[usize::from(bytes[at])] & PREFIX != 0 {
            is_short |= bytes[at] == 0x66;
            at += 1;
        }
        let rex = bytes[at];
        let has_rex = rex & 0xf0 == 0x40;
        at += usize::from(has_rex);
        let has_two = bytes[at] == 0x0f;
        at += usize::from(has_two);
        let form = FORMS[usize::from(has_two) << 8 | usize::from(bytes[at])];
        let (at, form) = if form & ESCAPE == 0 { (at, form) } else { escaped(bytes, at) };
        let is_wide = has_rex && rex & 8 != 0 && form & WIDE != 0;

        let modrm = bytes[at + 1];
        let has_modrm = form & MODRM != 0;
        let is_relative = has_modrm && modrm & 0xc7 == 5;
        let own_distance = has_modrm && modrm & 0xc7 == 4 && bytes[at + 2] & 7 == 5;
        let has_some = modrm & 0x30 == 0;
        let sized = form & SIZED != 0 || (form & SOME_SIZED != 0 && has_some);
        let end = at
            + 1
            + usize::from(has_modrm) * usize::from(MODRM_BYTES[usize::from(modrm)])
            + 4 * usize::from(own_distance)
            + usize::from(form & IMMEDIATE)
            + usize::from(form & SOME_BYTE != 0 && has_some)
            + usize::from(sized) * (4 - 2 * usize::from(is_short && !is_wide) + 4 * usize::from(is_wide));
        let operand = match (form & RELATIVE != 0, is_relative) {
            (true, _) => Some(at + 1),
            (false, true) => Some(at + 2),
            (false, false) => None,
        };
        Self { len: end, operand }
    }
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
