//! Tests of the engine through its public interface.

#[path = "../fixture/mod.rs"]
mod fixture;

mod budget;
mod concurrency;
mod damage;
mod delta;
mod faults;
mod gc;
mod gc_protocol;
mod model;
mod paths;
mod push;
mod rebuild;
mod recovery;
mod rewrite;
mod round_trip;
mod scrub;
mod sharing;
