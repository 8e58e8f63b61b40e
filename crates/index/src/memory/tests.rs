use proptest::prelude::*;

use super::{MemoryChunkIndex, MemoryMeta};
use crate::conformance::{self, model};

#[test]
fn meta_keeps_its_word() {
    conformance::meta(&|| Box::new(MemoryMeta::new()));
}

#[test]
fn chunk_index_keeps_its_word() {
    conformance::chunk_index(&|| Box::new(MemoryChunkIndex::new()));
}

proptest! {
    // The engine is its own model here: this tries the steps themselves.
    #[test]
    fn random_steps(steps in model::steps(40, false), chunk_steps in model::chunk_steps(20)) {
        model::meta(&mut |_| Box::new(MemoryMeta::new()), &steps)?;
        model::chunk_index(&MemoryChunkIndex::new(), &chunk_steps)?;
    }
}
