//! Tests of frames and packs through the public interface.

mod delta;
mod filtered;
mod footer;
mod frame;
mod fuzz;
mod golden;
mod linked;
mod recover;
mod sample;
