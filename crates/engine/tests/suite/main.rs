//! Tests of the engine through its public interface.

#[path = "../fixture/mod.rs"]
mod fixture;

mod damage;
mod faults;
mod recovery;
mod round_trip;
mod sharing;
