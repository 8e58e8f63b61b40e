//! What `firn` ends with. The numbers are stable: scripts rely on them.
//!
//! | code | constant | means |
//! |---|---|---|
//! | 0 | [`DONE`] | it was done; also when whoever read the output stopped reading, and always for `firn hook` |
//! | 1 | [`FAILED`] | a part was not done: some paths were not pushed, a check of `firn doctor` failed, a file can't be written |
//! | 2 | [`USAGE`] | the command line makes no sense, or asks for what can't be |
//! | 3 | [`SERVER`] | the server can't be reached, refuses the token, or speaks no version of the protocol that this program knows |
//! | 4 | [`CONFIG`] | the configuration, or a file of credentials, is bad |
//! | 5 | [`STORE`] | Nix, its store or its database can't be used |
//! | 6 | [`AGENT`] | the agent does not run, or another one holds its queue |
//! | 130 | [`INTERRUPTED`] | ended by Ctrl-C; what was pushed until then is in the cache |
//!
//! `firn watch-exec` ends with the code of the command that it ran.

/// It was done.
pub const DONE: u8 = 0;
/// A part was not done.
pub const FAILED: u8 = 1;
/// The command line makes no sense, or asks for what can't be.
pub const USAGE: u8 = 2;
/// The server can't be reached, refuses the token, or speaks another protocol.
pub const SERVER: u8 = 3;
/// The configuration, or a file of credentials, is bad.
pub const CONFIG: u8 = 4;
/// Nix, its store or its database can't be used.
pub const STORE: u8 = 5;
/// The agent does not run, or another one holds its queue.
pub const AGENT: u8 = 6;
/// Ended by Ctrl-C.
pub const INTERRUPTED: u8 = 130;
