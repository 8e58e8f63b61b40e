//! The program `firn` as its users run it: against a scripted server, with a scripted Nix and with real ones.

mod doctor;
mod hook;
mod login;
mod push;
mod support;
mod use_cache;
