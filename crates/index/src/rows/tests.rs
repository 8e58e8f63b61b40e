use proptest::prelude::*;

use super::*;
use crate::conformance::samples::{
    alias_row, cache_row, document_row, nar_row, path_row, recipe_row, store_info, token_row,
};

/// Checks a row's way there and back, and that nothing else is taken for it.
fn check<R: Row + PartialEq + std::fmt::Debug>(row: &R) {
    let bytes = row.encode();
    assert_eq!(R::decode(&bytes).expect("its own bytes"), *row);
    for end in 0..bytes.len() {
        assert!(R::decode(&bytes[..end]).is_err(), "{} cut at {end} was read", R::NAME);
    }
    let longer = [&bytes[..], &[0]].concat();
    let error = R::decode(&longer).expect_err("a byte too many");
    assert_eq!(error.to_string(), format!("decode a {}: 1 bytes follow its end", R::NAME));
    let mut newer = bytes;
    newer[0] = R::VERSION + 1;
    let error = R::decode(&newer).expect_err("a newer version");
    assert!(error.to_string().ends_with("its version is 2, and this firn knows 1"), "{error}");
}

#[test]
fn every_row_is_strict() {
    check(&store_info(1));
    check(&Totals { paths: 1, logical_bytes: u64::MAX, unique_bytes: 3, stored_bytes: 128 });
    check(&PackRow { seq: 300, ..PackRow::reserved(1_800_000_000) });
    check(&recipe_row(&[1, 2, 3]));
    check(&nar_row(7));
    check(&alias_row(7));
    check(&path_row(7, 1 << 40));
    check(&document_row(1));
    check(&document_row(2));
    check(&cache_row(30));
    check(&token_row(4));
}

proptest! {
    #[test]
    fn any_bytes_decode_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200), flip in any::<(usize, u8)>()) {
        let _ = PathRow::decode(&bytes);
        let _ = RecipeRow::decode(&bytes);
        let _ = NarRow::decode(&bytes);
        // One changed byte gets deeper than noise does.
        let mut changed = path_row(1, 1000).encode();
        let at = flip.0 % changed.len();
        changed[at] ^= flip.1;
        if let Ok(row) = PathRow::decode(&changed) {
            prop_assert_eq!(PathRow::decode(&row.encode()).expect("its own bytes"), row);
        }
    }
}

#[test]
fn a_length_beyond_the_row_is_refused_before_memory_is_taken() {
    let mut bytes = vec![NarRow::VERSION];
    bytes.extend([0; 32]);
    bytes.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    assert!(NarRow::decode(&bytes).is_err());
}

#[test]
fn cache_names() {
    for good in ["a", "0", "team-1_x.y", &"a".repeat(64)] {
        assert_eq!(good.parse::<CacheName>().expect(good).as_str(), good);
    }
    for bad in ["", "-a", ".a", "A", "a/b", "a b", "a\0", "é", "api", "nar", "x.narinfo", &"a".repeat(65)] {
        assert!(bad.parse::<CacheName>().is_err(), "{bad:?}");
    }
}

#[test]
fn token_ids() {
    let id = TokenId(0xab);
    assert_eq!(id.to_string(), "00000000000000ab");
    assert_eq!("00000000000000ab".parse(), Ok(id));
    for bad in ["", "ab", "+0000000000000ab", "00000000000000abc", "00000000000000ag"] {
        assert!(bad.parse::<TokenId>().is_err(), "{bad:?}");
    }
}

#[test]
fn totals_stop_at_their_ends() {
    let most = Totals { paths: u64::MAX, logical_bytes: 1, unique_bytes: 0, stored_bytes: 0 };
    let mut sum = most;
    sum.add(&most);
    assert_eq!((sum.paths, sum.logical_bytes), (u64::MAX, 2));
    sum.subtract(&Totals { logical_bytes: 3, ..most });
    assert_eq!((sum.paths, sum.logical_bytes), (0, 0));
}
