//! firn-server
