//! RocksDB's engines from outside. One program: each would link RocksDB again.

mod conformance;
mod faults;
mod folders;
mod logs;
mod processes;
mod sizes;
