//! What `firnd` ends with. The numbers are stable: scripts rely on them.
//!
//! | code | constant | means |
//! |---|---|---|
//! | 0 | [`DONE`] | it was done; also when whoever read the output stopped reading |
//! | 1 | [`FAILED`] | the disk, the network or the store failed; standard error says what |
//! | 2 | [`USAGE`] | the command line makes no sense, or asks for what can't be |
//! | 3 | [`CONFIG`] | the configuration or a file that it names is bad |
//! | 4 | [`HELD`] | another process holds the data directory |
//! | 5 | [`NOT_FOUND`] | there is no such cache, token or store |
//! | 6 | [`EXISTS`] | there is such a cache already |
//! | 7 | [`FORCED`] | a second signal ended a shutdown; nothing acknowledged is lost |
//! | 8 | [`DAMAGED`] | it was done, and found stored bytes that are damaged |

/// It was done.
pub const DONE: u8 = 0;
/// The disk, the network or the store failed.
pub const FAILED: u8 = 1;
/// The command line makes no sense, or asks for what can't be.
pub const USAGE: u8 = 2;
/// The configuration or a file that it names is bad.
pub const CONFIG: u8 = 3;
/// Another process holds the data directory.
pub const HELD: u8 = 4;
/// There is no such cache, token or store.
pub const NOT_FOUND: u8 = 5;
/// There is such a cache already.
pub const EXISTS: u8 = 6;
/// A second signal ended a shutdown.
pub const FORCED: u8 = 7;
/// It was done, and found stored bytes that are damaged.
pub const DAMAGED: u8 = 8;
