//! What must hold for any input; called by the fuzz targets, and on their corpora by `cargo test`.
//!
//! Each function panics if it does not hold.

use crate::placement::Placement;
use crate::records::Record;

/// What is accepted as a record is written as one that means the same.
pub fn record_decode(bytes: &[u8]) {
    if let Ok(record) = Record::decode(bytes) {
        assert_eq!(Record::decode(&record.encode()).as_ref(), Ok(&record));
    }
}

/// What is accepted as a placement is written as one that means the same.
pub fn placement_decode(bytes: &[u8]) {
    if let Some(placement) = Placement::decode(bytes) {
        assert_eq!(Placement::decode(&placement.encode()).as_ref(), Some(&placement));
    }
}
