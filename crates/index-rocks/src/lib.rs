//! firn-index-rocks
