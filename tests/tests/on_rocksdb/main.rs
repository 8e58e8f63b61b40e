//! The engine's tests of collections, repacks, passes that fail, and races, and its model, once more on the indexes that a
//! server has. `crates/engine/tests` has them on those in memory, which show what goes wrong sooner.

#[path = "../../../crates/engine/tests/fixture/mod.rs"]
mod fixture;
mod indexes;

#[path = "../../../crates/engine/tests/suite/gc.rs"]
mod gc;
#[path = "../../../crates/engine/tests/suite/gc_repack.rs"]
mod gc_repack;
#[path = "../../../crates/engine/tests/suite/invariants.rs"]
mod invariants;
#[path = "../../../crates/engine/tests/suite/model.rs"]
mod model;
#[path = "../../../crates/engine/tests/suite/passes.rs"]
mod passes;
#[path = "../../../crates/engine/tests/suite/races.rs"]
mod races;
