//! Tests of the push API: a client that cut and compressed by itself, and what it may get wrong.

mod commit;
