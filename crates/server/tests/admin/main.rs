//! The program `firnd` as an operator uses it: commands with and without a running server, start, end, TLS.

mod commands;
mod damaged;
mod files;
mod lifecycle;
mod newer;
mod rebuild;
mod support;
mod tls;
