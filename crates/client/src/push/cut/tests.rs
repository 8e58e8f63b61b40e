use std::sync::Arc;

use firn_nix::StorePath;
use firn_testkit::random::Random;

use super::super::samples::Nars;
use super::*;

fn noise(seed: u64, len: usize) -> Vec<u8> {
    Random::new(seed).noise(len)
}

fn read_all(nars: &Nars, info: &PathInfo, keep: bool) -> Result<CutPath, PathFailure> {
    cut(nars, info, keep, &Advance::new(Arc::default(), info.nar_size), &CancellationToken::new())
}

#[test]
fn what_is_not_as_recorded_is_corrupt() {
    let mut nars = Nars::default();
    let good = nars.add("a", &noise(1, 100_000), &[]);
    for bad in [
        PathInfo { nar_hash: Sha256([7; 32]), ..good.clone() },
        PathInfo { nar_size: good.nar_size - 1, ..good.clone() },
        PathInfo { nar_size: good.nar_size + 1, ..good.clone() },
        PathInfo { nar_size: 0, ..good.clone() },
    ] {
        let failure = read_all(&nars, &bad, true).unwrap_err();
        assert_eq!(failure.name(), "corrupt", "{failure}");
    }
    nars.0.insert(good.path.clone(), b"no NAR".to_vec());
    let no_nar = PathInfo { nar_size: 6, nar_hash: Sha256::of(b"no NAR"), ..good.clone() };
    assert_eq!(read_all(&nars, &no_nar, true).unwrap_err().name(), "corrupt");
    nars.0.clear();
    assert_eq!(read_all(&nars, &good, true).unwrap_err().name(), "vanished");
}

#[test]
fn a_stopped_push_stops_reading() {
    let mut nars = Nars::default();
    let info = nars.add("a", &noise(1, 1_000_000), &[]);
    let stop = CancellationToken::new();
    stop.cancel();
    let advance = Advance::new(Arc::default(), info.nar_size);
    assert_eq!(cut(&nars, &info, true, &advance, &stop).unwrap_err().name(), "stopped");
}

#[test]
fn chunks_that_are_gathered_are_those_that_were_kept() {
    let mut nars = Nars::default();
    let info = nars.add("a", &noise(1, 3_000_000), &[]);
    let path = read_all(&nars, &info, true).unwrap();
    assert!(path.chunks.len() > 10);
    let kept = path.kept.unwrap();
    assert_eq!((kept.data.len() as u64, kept.origins.len()), (info.nar_size, path.chunks.len()));
    let wanted: Vec<bool> = (0..path.chunks.len()).map(|place| place % 3 != 1).collect();
    let from_kept = runs_of(&kept, &path.chunks, &wanted, 1 << 20);
    let range = kept.data.as_ptr_range();
    let is_shared = |piece: &Bytes| range.contains(&piece.as_ptr());
    assert!(from_kept.iter().flat_map(|run| &run.pieces).all(is_shared), "nothing is copied");
    let mut gathered = Vec::new();
    let mut on_run = |run| {
        gathered.push(run);
        Ok(())
    };
    let stop = CancellationToken::new();
    gather(&nars, &info, &path.chunks, &wanted, 1 << 20, &stop, &mut on_run).unwrap();
    assert_eq!(gathered.len(), from_kept.len());
    for (one, other) in gathered.iter().zip(&from_kept) {
        assert_eq!((&one.ids, &one.lens, one.pieces.concat()), (&other.ids, &other.lens, other.pieces.concat()));
        assert_eq!((one.origins.len(), &one.origins), (one.ids.len(), &other.origins));
        let mut compact = Run { pieces: other.pieces.clone(), ..Run::default() };
        compact.compact();
        assert_eq!(compact.pieces, [one.pieces.concat()]);
        let data = one.pieces.concat();
        assert!(data.len() <= 1 << 20 && data.len() == other.bytes() && !one.ids.is_empty());
        let mut at = 0;
        for (id, &len) in one.ids.iter().zip(&one.lens) {
            assert_eq!(ChunkId::of(&data[at..at + len as usize]), *id);
            at += len as usize;
        }
        assert_eq!(at, data.len());
    }
    let ids: Vec<_> = from_kept.iter().flat_map(|run| run.ids.clone()).collect();
    let expected: Vec<_> =
        path.chunks.iter().zip(&wanted).filter(|(_, wanted)| **wanted).map(|(chunk, _)| chunk.id).collect();
    assert_eq!(ids, expected);
}

#[test]
fn what_changed_between_two_readings_is_noticed() {
    let mut nars = Nars::default();
    let info = nars.add("a", &noise(1, 300_000), &[]);
    let first = read_all(&nars, &info, false).unwrap();
    assert!(first.kept.is_none());
    let wanted = vec![true; first.chunks.len()];
    let stop = CancellationToken::new();
    let again = |nars: &Nars, info: &PathInfo, chunks: &[ChunkRef]| {
        gather(nars, info, chunks, &wanted, 1 << 20, &stop, &mut |_| Ok(())).unwrap_err().name()
    };
    let other = nars.add("a", &noise(2, 300_000), &[]);
    assert_eq!(again(&nars, &other, &first.chunks), "changed");
    assert_eq!(again(&nars, &info, &first.chunks), "changed");
    nars.0.remove(&info.path);
    assert_eq!(again(&nars, &info, &first.chunks), "vanished");
}

#[test]
fn what_takes_runs_may_refuse_them() {
    let mut nars = Nars::default();
    let info = nars.add("a", &noise(1, 300_000), &[]);
    let first = read_all(&nars, &info, false).unwrap();
    let wanted = vec![true; first.chunks.len()];
    let stop = CancellationToken::new();
    let refused = gather(&nars, &info, &first.chunks, &wanted, 1 << 20, &stop, &mut |_| Err(PathFailure::Stopped));
    assert_eq!(refused.unwrap_err().name(), "stopped");
}

/// A store that fails in the middle of a NAR.
struct Breaking<'a>(&'a Nars, fn(String) -> SourceError);

impl Source for Breaking<'static> {
    fn dump(&self, path: &StorePath, out: &mut dyn Write) -> Result<(), SourceError> {
        let nar = &self.0.0[path];
        out.write_all(&nar[..nar.len() / 2]).map_err(SourceError::Stopped)?;
        Err(self.1("dump x".to_owned()))
    }
}

#[test]
fn what_the_store_says_is_kept() {
    let nars = Box::leak(Box::<Nars>::default());
    let info = nars.add("a", &noise(1, 100_000), &[]);
    for (error, name, may_pass) in [
        (SourceError::Vanished as fn(String) -> SourceError, "vanished", false),
        (SourceError::Changed, "changed", true),
        (SourceError::Unreadable, "unreadable", false),
        (SourceError::Hindered, "unreadable", true),
    ] {
        let advance = Advance::new(Arc::default(), info.nar_size);
        let failure = cut(&Breaking(nars, error), &info, true, &advance, &CancellationToken::new()).unwrap_err();
        assert_eq!((failure.name(), failure.may_pass(), failure.to_string().as_str()), (name, may_pass, "dump x"));
    }
}
