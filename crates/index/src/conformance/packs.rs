//! The life of packs, and what stands in its way.

use super::samples::{commit, pack, recipe, recipe_row};
use super::{Case, ok};
use crate::{Error, Meta, Op, PackRow, PackState};

pub(super) const CASES: &[Case] = &[
    an_unknown_pack,
    a_life,
    sealing_twice_returns_the_first_number,
    sealing_what_was_never_reserved_is_corrupt,
    sealing_what_was_doomed_is_corrupt,
    a_pack_is_reserved_once,
    forgetting_is_guarded,
    states_move_only_as_they_may,
    a_pack_with_an_edge_is_never_doomed,
    pages_of_packs,
    pages_of_sealed_packs,
];

/// Reserves and seals packs.
pub(super) fn sealed(meta: &dyn Meta, packs: impl IntoIterator<Item = u8>) {
    for n in packs {
        ok(meta.reserve_pack(pack(n), 5));
        ok(meta.seal_pack(pack(n), 1000, 2000));
    }
}

/// Takes a sealed pack to doomed.
pub(super) fn doomed(meta: &dyn Meta, n: u8) {
    assert!(ok(meta.set_pack_state(pack(n), PackState::Live, PackState::Condemned, 7)));
    assert!(ok(meta.set_pack_state(pack(n), PackState::Condemned, PackState::Doomed, 7)));
}

/// Returns the state of a pack that must be there.
#[track_caller]
pub(super) fn state(meta: &dyn Meta, n: u8) -> PackState {
    ok(meta.pack(pack(n))).expect("the pack is there").state
}

fn an_unknown_pack(meta: &dyn Meta) {
    assert_eq!(ok(meta.pack(pack(1))), None);
    assert_eq!(ok(meta.packs(None, 10)), vec![]);
    assert_eq!(ok(meta.sealed_packs(0, 10)), vec![]);
    assert_eq!(ok(meta.recipes_of_pack(pack(1), None, 10)), vec![]);
    assert!(!ok(meta.set_pack_state(pack(1), PackState::Live, PackState::Condemned, 7)));
}

fn a_life(meta: &dyn Meta) {
    ok(meta.reserve_pack(pack(1), 5));
    let writing = PackRow {
        state: PackState::Writing,
        reserved_at: 5,
        seq: 0,
        durable_bytes: 0,
        stored_bytes: 0,
        unique_bytes: 0,
    };
    assert_eq!(ok(meta.pack(pack(1))), Some(writing.clone()));
    assert_eq!(ok(meta.sealed_packs(0, 10)), vec![], "a writing pack has no number");

    let outcome = ok(meta.commit(6, &[commit(&[], vec![Op::PackDurable(pack(1), 700)])]));
    assert_eq!(outcome, vec![Ok(())]);
    assert_eq!(ok(meta.seal_pack(pack(1), 1000, 3000)), 1);
    let live = PackRow {
        state: PackState::Live,
        seq: 1,
        durable_bytes: 700,
        stored_bytes: 1000,
        unique_bytes: 3000,
        ..writing
    };
    assert_eq!(ok(meta.pack(pack(1))), Some(live));
    let sum = crate::Totals { stored_bytes: 1000, unique_bytes: 3000, ..crate::Totals::default() };
    assert_eq!(ok(meta.totals()), sum, "sealing adds the pack's bytes");
}

fn sealing_twice_returns_the_first_number(meta: &dyn Meta) {
    sealed(meta, [1, 2]);
    let before = ok(meta.pack(pack(1)));
    let totals = ok(meta.totals());
    assert_eq!(ok(meta.seal_pack(pack(1), 77, 88)), 1);
    assert_eq!(ok(meta.totals()), totals, "a pack counts once");
    assert_eq!(ok(meta.pack(pack(1))), before);
    ok(meta.reserve_pack(pack(3), 5));
    assert_eq!(ok(meta.seal_pack(pack(3), 1, 1)), 3, "no number is left out");
}

fn sealing_what_was_never_reserved_is_corrupt(meta: &dyn Meta) {
    assert!(matches!(meta.seal_pack(pack(1), 1, 1), Err(Error::Corrupt { .. })));
    assert_eq!(ok(meta.pack(pack(1))), None);
}

fn sealing_what_was_doomed_is_corrupt(meta: &dyn Meta) {
    ok(meta.reserve_pack(pack(1), 5));
    assert!(ok(meta.set_pack_state(pack(1), PackState::Writing, PackState::Doomed, 7)));
    assert!(matches!(meta.seal_pack(pack(1), 1, 1), Err(Error::Corrupt { .. })));
    assert_eq!(state(meta, 1), PackState::Doomed);
    assert_eq!(ok(meta.sealed_packs(0, 10)), vec![]);
}

fn a_pack_is_reserved_once(meta: &dyn Meta) {
    ok(meta.reserve_pack(pack(1), 5));
    sealed(meta, [2]);
    for n in [1, 2] {
        let before = ok(meta.pack(pack(n)));
        assert!(matches!(meta.reserve_pack(pack(n), 6), Err(Error::PackInUse { pack: id, .. }) if id == pack(n)));
        assert_eq!(ok(meta.pack(pack(n))), before);
    }
}

fn forgetting_is_guarded(meta: &dyn Meta) {
    ok(meta.forget_pack(pack(9)));
    ok(meta.reserve_pack(pack(1), 5));
    ok(meta.forget_pack(pack(1)));
    assert_eq!(ok(meta.pack(pack(1))), None);

    sealed(meta, [2]);
    assert!(matches!(meta.forget_pack(pack(2)), Err(Error::PackInUse { .. })));
    assert_eq!(state(meta, 2), PackState::Live);

    ok(meta.reserve_pack(pack(3), 5));
    let needs = |edges: &[u8]| commit(&[], vec![Op::Recipe(recipe(1), recipe_row(edges))]);
    assert_eq!(ok(meta.commit(6, &[needs(&[2, 3])])), vec![Ok(())]);
    assert!(matches!(meta.forget_pack(pack(3)), Err(Error::PackInUse { .. })));
    assert_eq!(state(meta, 3), PackState::Writing);
    assert_eq!(ok(meta.commit(6, &[needs(&[2])])), vec![Ok(())]);
    ok(meta.forget_pack(pack(3)));
    assert_eq!(ok(meta.pack(pack(3))), None);
}

fn states_move_only_as_they_may(meta: &dyn Meta) {
    use PackState::{Condemned, Doomed, Live, Writing};
    let prepare = |n: u8, state| {
        ok(meta.reserve_pack(pack(n), 5));
        if state != Writing {
            ok(meta.seal_pack(pack(n), 1, 1));
        }
        match state {
            Writing | Live => {}
            Condemned => assert!(ok(meta.set_pack_state(pack(n), Live, Condemned, 7))),
            Doomed => doomed(meta, n),
        }
    };
    let allowed = [(Live, Condemned), (Condemned, Live), (Condemned, Doomed), (Writing, Doomed)];
    let all = [Writing, Live, Condemned, Doomed];
    let mut n = 0;
    for (from, to) in all.into_iter().flat_map(|from| all.map(|to| (from, to))) {
        n += 1;
        prepare(n, from);
        let moved = ok(meta.set_pack_state(pack(n), from, to, 7));
        assert_eq!(moved, allowed.contains(&(from, to)), "{from:?} to {to:?}");
        assert_eq!(state(meta, n), if moved { to } else { from });
    }
    sealed(meta, [100]);
    assert!(!ok(meta.set_pack_state(pack(100), Condemned, Doomed, 7)), "it is not condemned");
    assert_eq!(state(meta, 100), Live);
}

fn a_pack_with_an_edge_is_never_doomed(meta: &dyn Meta) {
    sealed(meta, [1, 2]);
    let needs = |edges: &[u8]| commit(&[], vec![Op::Recipe(recipe(1), recipe_row(edges))]);
    assert_eq!(ok(meta.commit(6, &[needs(&[1])])), vec![Ok(())]);
    assert!(ok(meta.set_pack_state(pack(1), PackState::Live, PackState::Condemned, 7)));
    assert!(!ok(meta.set_pack_state(pack(1), PackState::Condemned, PackState::Doomed, 7)));
    assert_eq!(state(meta, 1), PackState::Condemned);
    assert_eq!(ok(meta.commit(6, &[needs(&[2])])), vec![Ok(())]);
    assert!(ok(meta.set_pack_state(pack(1), PackState::Condemned, PackState::Doomed, 7)));
}

fn pages_of_packs(meta: &dyn Meta) {
    for n in [3, 1, 255, 0, 2] {
        ok(meta.reserve_pack(pack(n), u64::from(n)));
    }
    let page = |after: Option<u8>, limit| -> Vec<u64> {
        ok(meta.packs(after.map(pack), limit)).into_iter().map(|(_, row)| row.reserved_at).collect()
    };
    assert_eq!(page(None, 2), [0, 1]);
    assert_eq!(page(Some(1), 2), [2, 3]);
    assert_eq!(page(Some(3), 2), [255]);
    assert_eq!(page(Some(255), 2), [0; 0]);
    assert_eq!(page(Some(77), 9), [255], "`after` need not be there");
    assert_eq!(page(None, 0), [0; 0]);
}

fn pages_of_sealed_packs(meta: &dyn Meta) {
    sealed(meta, [9, 4]);
    ok(meta.reserve_pack(pack(1), 5));
    sealed(meta, [6]);
    assert_eq!(ok(meta.sealed_packs(0, 2)), vec![(1, pack(9)), (2, pack(4))]);
    assert_eq!(ok(meta.sealed_packs(2, 2)), vec![(3, pack(6))]);
    assert_eq!(ok(meta.sealed_packs(3, 2)), vec![]);
    assert_eq!(ok(meta.sealed_packs(u64::MAX, 2)), vec![]);
    doomed(meta, 4);
    assert_eq!(ok(meta.sealed_packs(1, 1)), vec![(2, pack(4))], "a number is kept whatever the state");
}
