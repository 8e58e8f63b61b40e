//! Tests of the engine through its public interface.

#[path = "../fixture/mod.rs"]
mod fixture;

mod concurrency;
mod damage;
mod faults;
mod recovery;
mod round_trip;
mod sharing;
