//! What the daemon says between a request and its answer: log lines, activities, errors.

use std::io::Read;

use super::wire::{self, ReadResult, nonsense};

const NEXT: u64 = 0x6f6c_6d67;
const READ: u64 = 0x6461_7461;
const WRITE: u64 = 0x6461_7416;
const LAST: u64 = 0x616c_7473;
const ERROR: u64 = 0x6378_7470;
const START_ACTIVITY: u64 = 0x5354_5254;
const STOP_ACTIVITY: u64 = 0x5354_4f50;
const RESULT: u64 = 0x5253_4c54;

/// The most messages before one answer; a daemon that has more to say to one of our small questions is not one.
const MAX_MESSAGES: usize = 100_000;

const MAX_FIELDS: u64 = 1000;
const MAX_TRACES: u64 = 10_000;

/// Reads up to where the answer begins, or returns the error that the daemon has instead of one.
pub(super) fn until_answer(from: &mut impl Read) -> ReadResult<Result<(), String>> {
    for _ in 0..MAX_MESSAGES {
        match wire::number(from)? {
            LAST => return Ok(Ok(())),
            ERROR => return error(from).map(Err),
            NEXT => wire::skip_text(from)?,
            START_ACTIVITY => {
                skip_numbers(from, 3)?;
                wire::skip_text(from)?;
                skip_fields(from)?;
                skip_numbers(from, 1)?;
            }
            STOP_ACTIVITY => skip_numbers(from, 1)?,
            RESULT => {
                skip_numbers(from, 2)?;
                skip_fields(from)?;
            }
            // Only asked of and sent to who imports, adds or exports.
            READ | WRITE => return nonsense("a message about data, which nobody asked for"),
            other => return nonsense(format!("a message of the unknown kind {other:#x}")),
        }
    }
    nonsense(format!("more than {MAX_MESSAGES} messages"))
}

/// Reads an error as protocols from 1.26 on have it.
fn error(from: &mut impl Read) -> ReadResult<String> {
    wire::skip_text(from)?;
    skip_numbers(from, 1)?;
    wire::skip_text(from)?;
    let message = wire::message(from)?;
    position(from)?;
    for _ in 0..wire::count(from, MAX_TRACES)? {
        position(from)?;
        wire::skip_text(from)?;
    }
    Ok(without_colours(&message))
}

/// Positions are not sent in any version.
fn position(from: &mut impl Read) -> ReadResult<()> {
    match wire::number(from)? {
        0 => Ok(()),
        _ => nonsense("an error with a position"),
    }
}

fn skip_fields(from: &mut impl Read) -> ReadResult<()> {
    for _ in 0..wire::count(from, MAX_FIELDS)? {
        match wire::number(from)? {
            0 => skip_numbers(from, 1)?,
            1 => wire::skip_text(from)?,
            other => return nonsense(format!("a field of the unknown kind {other}")),
        }
    }
    Ok(())
}

fn skip_numbers(from: &mut impl Read, count: usize) -> ReadResult<()> {
    for _ in 0..count {
        wire::number(from)?;
    }
    Ok(())
}

/// Removes terminal colours and line ends.
fn without_colours(message: &str) -> String {
    let mut plain = String::with_capacity(message.len());
    let mut rest = message.chars();
    while let Some(character) = rest.next() {
        match character {
            '\u{1b}' => {
                rest.by_ref().take(32).find(|&c| c.is_ascii_alphabetic());
            }
            '\n' => plain.push(' '),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::wire::{ReadError, put_number, put_text};
    use super::*;

    enum Part<'a> {
        Number(u64),
        Text(&'a str),
    }
    use Part::{Number, Text};

    fn bytes(parts: &[Part<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in parts {
            match part {
                Number(number) => put_number(&mut bytes, *number),
                Text(text) => put_text(&mut bytes, text),
            }
        }
        bytes
    }

    #[test]
    fn refuses_what_the_protocol_has_not() {
        for bad in [
            &[Number(READ), Number(8)][..],
            &[Number(WRITE), Text("data")],
            &[Number(1)],
            &[Number(RESULT), Number(1), Number(1), Number(1), Number(2)],
            &[Number(RESULT), Number(1), Number(1), Number(u64::MAX)],
            &[Number(ERROR), Text("Error"), Number(0), Text("Error"), Text("no"), Number(1)],
            &[Number(ERROR), Text("Error"), Number(0), Text("Error"), Text("no"), Number(0), Number(u64::MAX)],
        ] {
            let read = until_answer(&mut &bytes(bad)[..]);
            assert!(matches!(read, Err(ReadError::Nonsense(_))), "{read:?}");
        }
        let endless = bytes(&[Number(STOP_ACTIVITY), Number(1)]).repeat(MAX_MESSAGES + 1);
        assert!(matches!(until_answer(&mut &endless[..]), Err(ReadError::Nonsense(_))));
        let cut = bytes(&[Number(NEXT), Text("line")]);
        assert!(matches!(until_answer(&mut &cut[..]), Err(ReadError::Io(_))));
    }

    #[test]
    fn passes_over_everything_else() {
        let talk = bytes(&[
            Number(NEXT),
            Text("a line"),
            Number(START_ACTIVITY),
            Number(1),
            Number(3),
            Number(105),
            Text("building"),
            Number(2),
            Number(1),
            Text("a"),
            Number(0),
            Number(9),
            Number(0),
            Number(RESULT),
            Number(1),
            Number(101),
            Number(1),
            Number(1),
            Text("log"),
            Number(STOP_ACTIVITY),
            Number(1),
            Number(LAST),
            Number(77),
        ]);
        let mut from = &talk[..];
        assert_eq!(until_answer(&mut from).unwrap(), Ok(()));
        assert_eq!(wire::number(&mut from).unwrap(), 77);
    }

    #[test]
    fn returns_errors_as_one_plain_line() {
        let talk = bytes(&[
            Number(ERROR),
            Text("Error"),
            Number(0),
            Text("Error"),
            Text("\u{1b}[31;1merror:\u{1b}[0m\n path \u{1b}[35;1m'x'\u{1b}[0m"),
            Number(0),
            Number(1),
            Number(0),
            Text("while"),
        ]);
        let mut from = &talk[..];
        assert_eq!(until_answer(&mut from).unwrap(), Err("error:  path 'x'".to_owned()));
        assert!(from.is_empty());
    }
}
