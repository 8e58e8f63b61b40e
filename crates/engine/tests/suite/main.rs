//! Tests of the engine through its public interface.

#[path = "../fixture/mod.rs"]
mod fixture;
#[path = "../fixture/indexes.rs"]
mod indexes;

mod acknowledged;
mod bit_rot;
mod budget;
mod concurrency;
mod conflicts;
mod damage;
mod delta;
mod faults;
mod gc;
mod gc_protocol;
mod gc_repack;
mod invariants;
mod model;
mod passes;
mod paths;
mod presence;
mod push;
mod races;
mod rebuild;
mod rebuild_damage;
mod recovery;
mod rewrite;
mod round_trip;
mod scrub;
mod sharing;
mod torn;
mod withdrawn;
