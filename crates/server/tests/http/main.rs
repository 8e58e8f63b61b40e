//! The HTTP side, over a real socket and an engine in memory; each module's name says what it promises.

mod downloads;
mod faults;
mod file_cache;
mod files_and_documents;
mod loops;
mod narinfos;
mod offers;
mod oidc;
mod pages;
mod pull;
mod push;
mod realisations;
mod search;
mod security_access;
mod security_paths;
mod sources;
mod support;
mod uploads;
mod usage;
mod uses;
