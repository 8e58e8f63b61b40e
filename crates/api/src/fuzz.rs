//! What must hold for any input; called by the fuzz targets, and on their corpora by `cargo test`.
//!
//! Each function panics if it does not hold.

use crate::{AnswerReader, Commit, CommitWriter, Endpoint, ErrorAnswer, Limits, encode_hints, split_hints};

/// Whatever is accepted as an endpoint is written as a path that is read as the same.
pub fn api_endpoint(data: &[u8]) {
    let Ok(target) = std::str::from_utf8(data) else { return };
    let Some((cache, endpoint)) = Endpoint::parse(target) else { return };
    assert!(!cache.contains(['/', '?']));
    assert_eq!(cache.is_empty(), endpoint == Endpoint::Capabilities);
    assert_eq!(Endpoint::parse(&endpoint.path(cache)), Some((cache, endpoint)));
}

/// Whatever is accepted as a commit is written as one that means the same.
pub fn api_commit(data: &[u8]) {
    let limits = Limits::default();
    let Ok(commit) = Commit::decode(data, &limits) else { return };
    let attached: usize = commit.paths.iter().filter_map(|path| path.recipe).map(<[u8]>::len).sum();
    assert!(attached < data.len());
    // Spelled out, what is empty by default may be too long for a body.
    let mut writer = CommitWriter::new(Limits { body_bytes: usize::MAX, ..limits });
    for path in &commit.paths {
        writer.push(&path.item, path.recipe).expect("it was in a commit");
    }
    for proof in &commit.upstream {
        writer.push_proof(proof).expect("it was in a commit");
    }
    let written = writer.finish();
    let again = Commit::decode(&written, &Limits { body_bytes: usize::MAX, ..limits });
    assert_eq!(again.as_ref(), Ok(&commit));
}

/// Whatever is accepted as hints is written as bytes that mean the same, and leaves the rest of the body as it is.
pub fn api_hints(data: &[u8]) {
    let Some((count, body)) = data.split_first_chunk() else { return };
    let count = u32::from_le_bytes(*count);
    let Ok((hints, rest)) = split_hints(body, count, 64) else { return };
    assert_eq!(hints.len(), count as usize);
    assert!(body.ends_with(rest));
    let again = [encode_hints(&hints), rest.to_vec()].concat();
    assert_eq!(again.len(), body.len());
    assert_eq!(split_hints(&again, count, 64), Ok((hints, rest)));
}

/// What a server answers is read in bounded memory, however it is cut.
pub fn api_answer(data: &[u8]) {
    let error = ErrorAnswer::read(data);
    assert!([&error.code, &error.message, &error.hint].iter().all(|text| text.len() <= 1024));
    let path = || "0fanvwfh6772nmhmbw78d8jmj0dr6lpc-a".parse().expect("a path");
    let whole = AnswerReader::new((0..3).map(|_| path())).push(data);
    let mut reader = AnswerReader::new((0..3).map(|_| path()));
    let pieces: Result<Vec<_>, _> = data.chunks(7).map(|piece| reader.push(piece)).collect();
    assert_eq!(whole.is_ok(), pieces.is_ok());
    if let (Ok(whole), Ok(pieces)) = (whole, pieces) {
        assert_eq!(whole, pieces.concat());
    }
}
