//! Push as a library.
