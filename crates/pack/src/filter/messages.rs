//! Catalogues of translated messages, as GNU gettext writes them (`.mo`; its manual, "The Format of GNU MO Files").
//!
//! They begin with tables of where each message is, how long it is, and of hashes by which it is found. All of that follows
//! from the messages behind the tables, in the order in which msgfmt writes them; what is written instead is how it differs:
//! zeros.

use std::ops::Range;

/// What a catalogue begins with where numbers are little-endian.
pub(super) const MAGIC: [u8; 4] = [0xde, 0x12, 0x04, 0x95];

/// The fields in front: magic, revision, number of messages, where the three tables are, and the length of the third.
const HEAD: usize = 28;

/// The most bytes before the tables.
const MAX_HEAD: usize = 256;

/// Where the parts of a catalogue are.
struct Layout {
    messages: usize,
    /// Pairs of length and place: first of all messages, then of all translations.
    strings: Range<usize>,
    hashes: Range<usize>,
}

impl Layout {
    /// Reads the fields in front, if the tables follow one another as msgfmt writes them.
    fn read(catalogue: &[u8]) -> Option<Self> {
        let head: &[u8; HEAD] = catalogue.first_chunk().filter(|head| head.starts_with(&MAGIC))?;
        let field = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let messages = Some(field(8)).filter(|&count| count > 0 && count < catalogue.len() / 16)?;
        // Later revisions have more fields.
        let first = Some(field(12)).filter(|first| (HEAD..=MAX_HEAD).contains(first))?;
        let strings = first..first + 16 * messages;
        let hashes = strings.end..strings.end + 4 * Some(field(20)).filter(|&count| count < catalogue.len() / 4)?;
        let is_usual = (field(16), field(24)) == (first + 8 * messages, hashes.start);
        (is_usual && hashes.end < catalogue.len()).then_some(Self { messages, strings, hashes })
    }
}

/// Changes a catalogue to how its tables differ from what its messages say.
pub(super) fn forward(catalogue: &mut [u8]) {
    change(catalogue, u32::wrapping_sub, |before, _| before);
}

/// Undoes [`forward`].
pub(super) fn inverse(catalogue: &mut [u8]) {
    change(catalogue, u32::wrapping_add, |_, after| after);
}

/// Changes all fields of the tables; `real` says which of a field's values, before and after, is the catalogue's.
fn change(catalogue: &mut [u8], step: fn(u32, u32) -> u32, real: fn(u32, u32) -> u32) {
    let Some(Layout { messages, strings, hashes }) = Layout::read(catalogue) else { return };
    let front_len = hashes.end;
    let (tables, texts) = catalogue.split_at_mut(hashes.end);
    let (front, hashes) = tables.split_at_mut(hashes.start);
    let (rows, _) = front[strings].as_chunks_mut::<4>();
    let base = u32::try_from(front_len).unwrap_or(u32::MAX);
    let mut reader = Reader { texts, base, left: 4 * texts.len() };
    let mut table = Hashes::new(hashes.len() / 4);
    let mut at = reader.base;
    for (number, row) in rows.chunks_exact_mut(2).enumerate() {
        let [len, place] = [u32::from_le_bytes(row[0]), u32::from_le_bytes(row[1])];
        // The place first: the length is that of what is there.
        let new_place = step(place, at);
        let text = reader.text(real(place, new_place));
        let new_len = step(len, u32::try_from(text.len()).unwrap_or_default());
        if number < messages {
            table.add(number, text);
        }
        at = real(place, new_place).wrapping_add(real(len, new_len)).wrapping_add(1);
        row[0] = new_len.to_le_bytes();
        row[1] = new_place.to_le_bytes();
    }
    let (words, _) = hashes.as_chunks_mut::<4>();
    for (word, expected) in words.iter_mut().zip(table.words) {
        *word = step(u32::from_le_bytes(*word), expected).to_le_bytes();
    }
}

/// Reads texts up to their zeros, four times as many bytes as there are at most: places need not be those of a catalogue.
struct Reader<'a> {
    texts: &'a [u8],
    base: u32,
    left: usize,
}

impl<'a> Reader<'a> {
    fn text(&mut self, place: u32) -> &'a [u8] {
        let start = place.checked_sub(self.base).map_or(usize::MAX, |start| start as usize);
        let rest = self.texts.get(start..).unwrap_or_default();
        let rest = &rest[..rest.len().min(self.left)];
        let len = memchr::memchr(0, rest).unwrap_or(rest.len());
        self.left -= len;
        &rest[..len]
    }
}

/// The table of hashes, filled in the order of messages; colliding ones are put further on (gettext's `hash-string.c`).
struct Hashes {
    words: Vec<u32>,
    /// How many places are still looked at: where the length is no prime, none may be free.
    left: usize,
}

impl Hashes {
    fn new(len: usize) -> Self {
        Self { words: vec![0; len], left: 16 * len }
    }

    fn add(&mut self, number: usize, text: &[u8]) {
        let len = self.words.len();
        if len < 3 {
            return;
        }
        let hash = hash(text) as usize;
        let (mut at, step) = (hash % len, 1 + hash % (len - 2));
        while self.left > 0 {
            self.left -= 1;
            if self.words[at] == 0 {
                self.words[at] = u32::try_from(number + 1).unwrap_or(u32::MAX);
                return;
            }
            at = (at + step) % len;
        }
    }
}

/// P. J. Weinberger's hash.
fn hash(text: &[u8]) -> u32 {
    text.iter().fold(0, |hash: u32, &byte| {
        let sum = (hash << 4).wrapping_add(byte.into());
        let high = sum & 0xf000_0000;
        sum ^ high ^ (high >> 24)
    })
}

/// Returns how long the catalogue is at the front of `bytes`, if it is one that [`forward`] makes mostly zeros of.
pub(super) fn len(bytes: &[u8]) -> Option<usize> {
    let layout = Layout::read(bytes)?;
    let (rows, _) = bytes[layout.strings.clone()].as_chunks::<8>();
    let mut end = layout.hashes.end;
    let mut unusual = 0;
    for (number, [l0, l1, l2, l3, p0, p1, p2, p3]) in rows.iter().enumerate() {
        let place = u32::from_le_bytes([*p0, *p1, *p2, *p3]) as usize;
        unusual += usize::from(place != end);
        // Soon, so that what only looks like many catalogues takes no longer than others.
        if unusual > 1 + number / 8 {
            return None;
        }
        end = place.checked_add(u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize)?.checked_add(1)?;
    }
    (end <= bytes.len() && end > layout.hashes.end).then_some(end)
}
