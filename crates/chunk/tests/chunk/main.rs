//! What chunks and recipes promise, tried through the public interface.

mod golden;
mod input;
mod limits;
mod patcher;
mod recipe;
mod reference;
mod round_trip;
