//! Wire types of the push API.
