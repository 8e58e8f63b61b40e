//! The suites that every engine must pass.
