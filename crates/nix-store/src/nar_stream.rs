//! A NAR in the middle of a conversation: nothing says where it ends but itself.

use std::io::{self, BufRead, Write};

use firn_nix::nar::Decoder;

/// Why a NAR did not come through. Only after [`Broken::Sink`] might one know where in the conversation one is, and nobody cares.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The connection failed.
    Io(io::Error),
    /// It is no NAR, or one of another length.
    Nar(String),
    /// Whoever takes it refused it.
    Sink(io::Error),
}

/// Hands on a NAR that has to have `size` bytes; reads not one more.
pub(crate) fn copy(from: &mut impl BufRead, size: u64, out: &mut dyn Write) -> Result<(), Broken> {
    let mut decoder = Decoder::new();
    let mut left = size;
    while left > 0 {
        let piece = match from.fill_buf() {
            Ok([]) => return Err(Broken::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(piece) => piece,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Broken::Io(error)),
        };
        let len = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
        let piece = piece.get(..len).unwrap_or(piece);
        // A shorter one is over here: to wait for more would be to wait for ever.
        decoder.push(piece, &mut |_| {}).map_err(|error| Broken::Nar(error.to_string()))?;
        out.write_all(piece).map_err(Broken::Sink)?;
        from.consume(len);
        left -= len as u64;
        if decoder.is_complete() && left > 0 {
            return Err(Broken::Nar(format!("a NAR of {} bytes instead of {size}", size - left)));
        }
    }
    decoder.finish().map_err(|error| Broken::Nar(format!("more than the {size} bytes that were announced: {error}")))
}

#[cfg(test)]
mod tests {
    use firn_nix::nar::Writer;

    use super::*;

    fn nar() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        writer.regular(false, 11).unwrap();
        writer.contents(b"hello world").unwrap();
        writer.into_inner()
    }

    #[test]
    fn reads_a_nar_and_nothing_behind_it() {
        let nar = nar();
        let talk = [&nar[..], b"next"].concat();
        let (mut from, mut out) = (&talk[..], Vec::new());
        copy(&mut from, nar.len() as u64, &mut out).unwrap();
        assert_eq!((out, from), (nar, &b"next"[..]));
    }

    #[test]
    fn one_of_another_length_is_told_without_waiting() {
        let nar = nar();
        let len = nar.len() as u64;
        assert!(matches!(copy(&mut &nar[..], len + 8, &mut io::sink()), Err(Broken::Nar(_))));
        assert!(matches!(copy(&mut &nar[..], len - 8, &mut io::sink()), Err(Broken::Nar(_))));
        assert!(matches!(copy(&mut &nar[..40], len, &mut io::sink()), Err(Broken::Io(_))));
        assert!(matches!(copy(&mut &[0; 400][..], 400, &mut io::sink()), Err(Broken::Nar(_))));
    }
}
