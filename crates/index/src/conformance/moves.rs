//! Recipes whose chunks were rewritten: moved only if they are still what was read. And what is noted of packs beside.

use super::packs::sealed;
use super::samples::{commit, pack, recipe, recipe_row};
use super::{Case, ok};
use crate::{Commit, Meta, Op, PackState, RecipeRow, Refusal};

pub(super) const CASES: &[Case] = &[
    a_recipe_moves_with_its_edges,
    a_recipe_that_changed_does_not_move,
    a_damaged_recipe_does_not_move,
    a_recipe_that_is_not_there_does_not_move,
    moves_of_one_batch_see_each_other,
    a_move_leans_on_its_packs,
    efforts,
];

fn one(meta: &dyn Meta, commit: Commit) -> Result<(), Refusal> {
    ok(meta.commit(100, &[commit])).remove(0)
}

/// Returns a move of recipe 1 from where [`recipe_row`] puts it with this first edge.
fn moved(from: u8, to: &[u8]) -> Op {
    Op::MoveRecipe(recipe(1), recipe_row(&[from]).record, recipe_row(to))
}

fn begin(meta: &dyn Meta) {
    sealed(meta, [1, 2, 3]);
    assert_eq!(one(meta, commit(&[], vec![Op::Recipe(recipe(1), recipe_row(&[1, 2]))])), Ok(()));
}

fn edges(meta: &dyn Meta) -> [usize; 3] {
    [1, 2, 3].map(|n| ok(meta.recipes_of_pack(pack(n), None, 9)).len())
}

fn changed() -> Result<(), Refusal> {
    Err(Refusal::RecipeChanged(recipe(1)))
}

fn a_recipe_moves_with_its_edges(meta: &dyn Meta) {
    begin(meta);
    assert_eq!(one(meta, commit(&[], vec![moved(1, &[2, 3])])), Ok(()));
    assert_eq!(ok(meta.recipe(&recipe(1))), Some(recipe_row(&[2, 3])));
    assert_eq!(edges(meta), [0, 1, 1]);
}

fn a_recipe_that_changed_does_not_move(meta: &dyn Meta) {
    begin(meta);
    let other = commit(&[], vec![Op::PackDurable(pack(1), 7), moved(2, &[3])]);
    let batch = [other, commit(&[], vec![moved(1, &[3])]), commit(&[], vec![moved(1, &[2])])];
    assert_eq!(ok(meta.commit(1, &batch)), vec![changed(), Ok(()), changed()], "the first is refused alone");
    assert_eq!(edges(meta), [0, 0, 1]);
    assert_eq!(ok(meta.recipe(&recipe(1))), Some(recipe_row(&[3])));
}

fn a_damaged_recipe_does_not_move(meta: &dyn Meta) {
    begin(meta);
    let damaged = RecipeRow { damaged_at: Some(5), ..recipe_row(&[1, 2]) };
    assert_eq!(one(meta, commit(&[], vec![Op::Recipe(recipe(1), damaged.clone())])), Ok(()));
    assert_eq!(one(meta, commit(&[], vec![moved(1, &[3])])), changed());
    assert_eq!(ok(meta.recipe(&recipe(1))), Some(damaged));
    assert_eq!(edges(meta), [1, 1, 0]);
}

fn a_recipe_that_is_not_there_does_not_move(meta: &dyn Meta) {
    sealed(meta, [1, 3]);
    assert_eq!(one(meta, commit(&[], vec![moved(1, &[3])])), changed());
    assert_eq!(ok(meta.recipe(&recipe(1))), None);
    assert_eq!(edges(meta), [0, 0, 0]);
}

fn moves_of_one_batch_see_each_other(meta: &dyn Meta) {
    begin(meta);
    let batch = [commit(&[], vec![moved(1, &[2])]), commit(&[], vec![moved(2, &[3])])];
    assert_eq!(ok(meta.commit(1, &batch)), vec![Ok(()), Ok(())]);
    assert_eq!(edges(meta), [0, 0, 1]);
}

fn a_move_leans_on_its_packs(meta: &dyn Meta) {
    begin(meta);
    assert_eq!(one(meta, commit(&[], vec![moved(1, &[9])])), Err(Refusal::PacksGone(vec![pack(9)])));
    assert!(ok(meta.set_pack_state(pack(3), PackState::Live, PackState::Condemned, 1)));
    assert_eq!(one(meta, commit(&[], vec![moved(1, &[3])])), Ok(()));
    assert_eq!(ok(meta.pack(pack(3))).map(|row| row.state), Some(PackState::Live), "it is needed again");
}

fn efforts(meta: &dyn Meta) {
    sealed(meta, [1]);
    assert_eq!(ok(meta.effort(pack(1))), 0);
    assert_eq!(one(meta, commit(&[], vec![Op::Effort(pack(1), 19)])), Ok(()));
    assert_eq!(ok(meta.effort(pack(1))), 19);
    assert_eq!(one(meta, commit(&[], vec![Op::Effort(pack(9), 3)])), Err(Refusal::PacksGone(vec![pack(9)])));
    assert_eq!(ok(meta.effort(pack(9))), 0);
    ok(meta.reserve_pack(pack(2), 1));
    assert_eq!(one(meta, commit(&[], vec![Op::Effort(pack(2), 4)])), Ok(()));
    ok(meta.forget_pack(pack(2)));
    assert_eq!(ok(meta.effort(pack(2))), 0);
    // It goes with its pack.
    assert!(ok(meta.set_pack_state(pack(1), PackState::Live, PackState::Condemned, 1)));
    assert!(ok(meta.set_pack_state(pack(1), PackState::Condemned, PackState::Doomed, 1)));
    assert!(ok(meta.remove_pack(pack(1))));
    assert_eq!(ok(meta.effort(pack(1))), 0);
}
