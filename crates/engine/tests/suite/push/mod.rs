//! Tests of the push API: a client that cut and compressed by itself, and what it may get wrong.

mod assemble;
mod commit;
mod frames;
mod repair;
mod scope;
