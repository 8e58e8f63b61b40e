//! firn-testkit
