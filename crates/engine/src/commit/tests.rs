use super::*;
use crate::fixture::{path, uploader};
use firn_chunk::RecipeId;
use firn_index::UnixSeconds;

const NOW: UnixSeconds = 1000;

fn upload(nar: u8) -> PathUpload {
    PathUpload {
        path: path("tool"),
        nar_hash: Sha256([nar; 32]),
        nar_size: 100 + u64::from(nar),
        references: vec![path("b"), path("a"), path("b")],
        elsewhere: Vec::new(),
        named: Vec::new(),
        deriver: None,
        ca: None,
        signatures: vec!["key:two".to_owned(), "key:one".to_owned()],
        known_keys: vec!["known".to_owned(), "mine".to_owned()],
        uploader: uploader("offering"),
        address: None,
        on_conflict: ConflictPolicy::KeepFirst,
        references_policy: ReferencePolicy::Strict,
    }
}

fn nar_row(nar: u8) -> NarRow {
    NarRow {
        recipe: RecipeId([nar; 32]),
        slots: Vec::new(),
        nar_size: 100 + u64::from(nar),
        uploaded_at: 1,
        lease_until: 2,
    }
}

/// Returns the row that the cache has of an earlier upload.
fn row(nar: u8) -> PathRow {
    let mut references = vec![path("a"), path("b")];
    references.sort_by_key(StorePath::base_name);
    PathRow {
        path: path("tool"),
        nar_hash: Sha256([nar; 32]),
        nar_size: 100 + u64::from(nar),
        references,
        deriver: None,
        ca: None,
        signatures: vec!["key:one".to_owned(), "key:two".to_owned()],
        committed_at: 500,
        uploader: uploader("first"),
        conflicts: Vec::new(),
    }
}

fn conflict_with(nar: u8, at: UnixSeconds, who: &str) -> Conflict {
    Conflict { nar_hash: Sha256([nar; 32]), nar_size: 100 + u64::from(nar), uploader: uploader(who), at }
}

/// A case: what is offered, what is there, and what is to come of it.
struct Case {
    name: &'static str,
    upload: PathUpload,
    /// The NAR that was uploaded, by its number.
    nar: Option<u8>,
    existing: Option<PathRow>,
    is_damaged: bool,
    outcome: PathOutcome,
    /// The row to write.
    written: Option<PathRow>,
    is_new: bool,
}

fn cases() -> Vec<Case> {
    let case = |name, upload, existing, outcome, written| Case {
        name,
        upload,
        nar: Some(1),
        is_new: Option::is_none(&existing),
        existing,
        is_damaged: false,
        outcome,
        written,
    };
    let mine = PathRow { committed_at: NOW, uploader: uploader("offering"), ..row(1) };
    let reject = PathUpload { on_conflict: ConflictPolicy::Reject, ..upload(1) };
    let signed = PathUpload { signatures: vec!["key:three".to_owned(), "key:one".to_owned()], ..upload(1) };
    let more = ["key:one", "key:three", "key:two"].map(str::to_owned).to_vec();
    let facts = PathUpload { deriver: Some(path("tool.drv")), ca: Some("text:x".to_owned()), ..upload(1) };
    let with_facts = PathRow { deriver: Some(path("tool.drv")), ca: Some("text:x".to_owned()), ..row(1) };
    let other_facts = PathUpload { deriver: Some(path("b.drv")), ca: Some("text:y".to_owned()), ..upload(1) };
    let seen = PathRow { conflicts: vec![conflict_with(1, NOW, "offering")], ..row(2) };
    let renamed = PathUpload { path: StorePath::new(path("tool").hash(), "other-name").unwrap(), ..upload(1) };
    let with_proven = PathRow { ca: Some("text:y".to_owned()), ..with_facts.clone() };
    let by_two = |n: u8| conflict_with(10 + n, 600, if n.is_multiple_of(4) { "y" } else { "x" });
    let crowded = PathRow { conflicts: (0..16).map(by_two).collect(), ..row(2) };
    let mut uncrowded = crowded.clone();
    uncrowded.conflicts.remove(15);
    uncrowded.conflicts.push(conflict_with(1, NOW, "offering"));
    let full = PathRow { conflicts: (10..26).map(|n| conflict_with(n, 600, &format!("x{n}"))).collect(), ..row(2) };
    let replaced = PathRow { conflicts: vec![conflict_with(9, 600, "x")], ..row(2) };
    let fewer = PathUpload { references: vec![path("a")], signatures: vec!["key:four".to_owned()], ..upload(1) };
    let reject_fewer = PathUpload { on_conflict: ConflictPolicy::Reject, ..fewer.clone() };
    let told = PathRow { conflicts: vec![conflict_with(1, NOW, "offering")], ..row(1) };
    let early = PathRow { references: vec![path("b")], signatures: vec!["key:five".to_owned()], ..row(1) };
    let both = row(1).signatures;
    let more_named = PathUpload { named: vec![path("a")], ..upload(1) };
    let vouched = PathRow { signatures: vec!["known:one".to_owned()], ..early.clone() };
    let vouched_noted = PathRow { conflicts: told.conflicts.clone(), ..vouched.clone() };
    let vouching = PathUpload { signatures: vec!["known:two".to_owned()], ..more_named.clone() };
    let vouched_again = PathRow { signatures: vec!["known:two".to_owned()], ..row(1) };
    let noted = PathRow { conflicts: told.conflicts.clone(), ..early.clone() };
    let (kept, rejected, merged) = (PathOutcome::KeptFirst, PathOutcome::Rejected, PathOutcome::Merged);
    vec![
        case("it is new", upload(1), None, PathOutcome::Created, Some(mine.clone())),
        case("it is there", upload(1), Some(row(1)), merged, None),
        case("it is there, and must be the same", reject.clone(), Some(row(1)), merged, None),
        case("more signatures", signed, Some(row(1)), merged, Some(PathRow { signatures: more, ..row(1) })),
        case("facts that were not known", facts, Some(row(1)), merged, Some(with_facts.clone())),
        case("facts that are known otherwise", other_facts, Some(with_facts), merged, Some(with_proven)),
        case("another name behind its hash", renamed.clone(), Some(row(1)), kept, Some(told.clone())),
        case("another name behind its hash, with another NAR", renamed.clone(), Some(row(2)), kept, Some(seen.clone())),
        Case { is_damaged: true, ..case("even if that is damaged", renamed, Some(row(2)), kept, Some(seen.clone())) },
        case("too many conflicts, most of one builder", upload(1), Some(crowded), kept, Some(uncrowded)),
        case("fewer references", fewer.clone(), Some(row(1)), kept, Some(told.clone())),
        case("fewer references, and they must be the same", reject_fewer, Some(row(1)), rejected, Some(told.clone())),
        case("fewer references again", fewer, Some(told), kept, None),
        case(
            "more references, which it names",
            more_named.clone(),
            Some(early.clone()),
            merged,
            Some(PathRow { signatures: both, ..row(1) }),
        ),
        case("more references, which it does not name", upload(1), Some(early), kept, Some(noted)),
        case("more than a known key signed", more_named, Some(vouched.clone()), kept, Some(vouched_noted)),
        case("more, signed by that key too", vouching, Some(vouched), merged, Some(vouched_again)),
        case("another NAR is there", upload(1), Some(row(2)), kept, Some(seen.clone())),
        case("another NAR is there, and is to be refused", reject.clone(), Some(row(2)), rejected, Some(seen.clone())),
        case("the same conflict again", upload(1), Some(seen.clone()), kept, None),
        case("the same conflict again, refused", reject, Some(seen), rejected, None),
        case("too many conflicts", upload(1), Some(full), kept, None),
        Case { nar: None, ..case("another NAR, not even uploaded", upload(1), Some(row(2)), kept, None) }
            .with_conflict(),
        Case {
            is_damaged: true,
            ..case(
                "what is there is damaged",
                upload(1),
                Some(replaced.clone()),
                PathOutcome::Created,
                Some(PathRow { conflicts: replaced.conflicts, ..mine.clone() }),
            )
        },
        Case { is_damaged: true, ..case("the same NAR was damaged", upload(1), Some(row(1)), merged, None) },
    ]
}

impl Case {
    fn with_conflict(mut self) -> Self {
        self.written = Some(PathRow { conflicts: vec![conflict_with(1, NOW, "offering")], ..row(2) });
        self
    }
}

#[test]
fn what_becomes_of_an_offer() {
    for case in cases() {
        let nar = case.nar.map(nar_row);
        let decision = decide(&case.upload, nar.as_ref(), case.existing.as_ref(), case.is_damaged, NOW);
        let decision = decision.unwrap_or_else(|error| panic!("{}: {error:?}", case.name));
        assert_eq!(decision.outcome, case.outcome, "{}", case.name);
        assert_eq!(decision.row, case.written, "{}", case.name);
        assert_eq!(decision.replaces.is_none(), case.is_new, "{}", case.name);
    }
}

#[test]
fn what_is_refused_whatever_is_there() {
    let short = PathUpload { nar_size: 100, ..upload(1) };
    let cases = [
        ("a NAR that was not uploaded", &upload(1), None, None, false),
        ("a NAR that was not uploaded, for what is damaged", &upload(1), None, Some(row(2)), true),
        ("a NAR that has expired", &upload(1), None, Some(row(1)), false),
        ("a NAR of another length", &short, Some(1), None, false),
        ("a NAR of another length, for what is there", &short, Some(1), Some(row(1)), false),
    ];
    for (name, upload, nar, existing, is_damaged) in cases {
        let nar = nar.map(nar_row);
        let error = decide(upload, nar.as_ref(), existing.as_ref(), is_damaged, NOW).err();
        assert!(matches!(error, Some(Error::WrongNar { .. })), "{name}: {error:?}");
    }
}

#[test]
fn signatures_are_sorted_without_duplicates_and_limited() {
    let many: Vec<_> = (0..100).rev().map(|n| format!("key:{:03}", n % 80)).collect();
    let decision = decide(&PathUpload { signatures: many, ..upload(1) }, Some(&nar_row(1)), None, false, NOW).unwrap();
    let signatures = decision.row.unwrap().signatures;
    assert_eq!(signatures.len(), MAX_SIGNATURES);
    assert!(signatures.is_sorted() && signatures.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn signatures_by_known_keys_find_room_among_those_that_came_first() {
    let numbered = |name: &str, numbers: std::ops::Range<usize>| -> Vec<String> {
        numbers.map(|n| format!("{name}:{n:03}")).collect()
    };
    let merge = |stored: Vec<String>, offered: Vec<String>| {
        let row = PathRow { signatures: stored, ..row(1) };
        let offer = PathUpload { signatures: offered, ..upload(1) };
        decide(&offer, Some(&nar_row(1)), Some(&row), false, NOW).unwrap().row.map(|row| row.signatures)
    };
    let full = numbered("evil", 0..MAX_SIGNATURES);
    assert_eq!(merge(full.clone(), numbered("later", 0..5)), None, "the first that came stay");
    let merged = merge(full.clone(), [numbered("later", 0..5), numbered("known", 0..2)].concat()).unwrap();
    assert_eq!(merged, [numbered("evil", 0..62), numbered("known", 0..2)].concat());
    // What is there by known keys gives way to what was verified just now, and to nothing else.
    let known = numbered("known", 0..MAX_SIGNATURES);
    assert_eq!(merge(known.clone(), numbered("later", 0..5)), None);
    let merged = merge(known, numbered("mine", 0..1)).unwrap();
    assert_eq!(merged, [numbered("known", 0..63), numbered("mine", 0..1)].concat());
}
