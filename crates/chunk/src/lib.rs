//! firn-chunk
