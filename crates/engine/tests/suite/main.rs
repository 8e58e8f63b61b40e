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
mod paths;
mod push;
mod recovery;
mod round_trip;
mod sharing;
