//! firn-pack
