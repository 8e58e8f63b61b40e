//! firn-engine
