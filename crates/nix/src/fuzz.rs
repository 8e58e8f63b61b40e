//! What must hold for any input; called by the fuzz targets, and on their corpora by `cargo test`.
//!
//! Each function panics if it does not hold.

use crate::nar::{Decoder, Event, ListingBuilder, NarError, Writer};
use crate::{MAX_NARINFO_LEN, NarInfo};

const STORE_DIR: &str = "/nix/store";

/// Whatever the NAR decoder accepts is what the writer writes; errors and events do not depend on how the input is split.
pub fn nar_decoder(data: &[u8]) {
    let whole = reencode(data, data.len().max(1));
    let bytewise = reencode(data, 1);
    let sevenfold = reencode(data, 7);
    assert_eq!(whole, bytewise, "splits matter");
    assert_eq!(whole, sevenfold, "splits matter");
    match whole {
        (written, Ok(())) => assert_eq!(written, data, "a second spelling was accepted"),
        (written, Err(_)) => assert!(written.len() <= data.len() + 128, "events without bytes"),
    }
}

/// Decodes `data` in pieces of `piece` bytes and returns what the writer makes of the events, and if it was a whole NAR.
fn reencode(data: &[u8], piece: usize) -> (Vec<u8>, Result<(), NarError>) {
    let mut writer = Writer::new(Vec::new());
    let mut listing = ListingBuilder::new();
    let mut decoder = Decoder::new();
    let result = data.chunks(piece).try_for_each(|piece| {
        decoder.push(piece, &mut |event| {
            listing.event(event);
            write(&mut writer, event);
        })
    });
    let result = result.and_then(|()| decoder.finish());
    assert_eq!(decoder.finish(), result, "it forgets its error");
    if result.is_ok() {
        let json = listing.finish().expect("smaller than its limits").to_json();
        serde_json::from_slice::<serde::de::IgnoredAny>(&json).expect("a listing is JSON");
        assert!(decoder.is_complete());
        assert_eq!(decoder.position(), data.len() as u64);
    }
    (writer.into_inner(), result)
}

fn write(writer: &mut Writer<Vec<u8>>, event: Event<'_>) {
    let result = match event {
        Event::Directory => writer.directory(),
        Event::Entry { name } => writer.entry(name),
        Event::EndDirectory => writer.end_directory(),
        Event::Regular { executable, offset, size } => {
            let result = writer.regular(executable, size);
            assert!(size == 0 || writer.position() == offset, "wrong offset");
            result
        }
        Event::Contents(bytes) => writer.contents(bytes),
        Event::Symlink { target } => writer.symlink(target),
    };
    result.expect("the decoder lets nothing through that the writer refuses");
}

/// Whatever is accepted as a narinfo is printed as one that means the same, and again the same.
pub fn narinfo_parse(data: &[u8]) {
    let Ok(info) = NarInfo::parse(data, STORE_DIR) else { return };
    let text = info.to_text(STORE_DIR);
    if text.len() > MAX_NARINFO_LEN {
        return;
    }
    let again = NarInfo::parse(text.as_bytes(), STORE_DIR).expect("it refuses what it prints");
    assert_eq!(again, info);
    assert_eq!(again.to_text(STORE_DIR), text);
    assert_eq!(again.fingerprint(STORE_DIR), info.fingerprint(STORE_DIR));
}
