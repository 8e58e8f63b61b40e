use proptest::prelude::*;

use super::*;
use crate::conformance::samples::{
    alias_row, cache_row, collection_row, document_row, issued_row, nar_row, path_row, pin_row, push_record,
    recipe_row, retention_row, store_info, token_row, upstreams_row,
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
    check(&UsageRow { paths: 1, served_bytes: u64::MAX, ..UsageRow::default() });
    check(&SummaryRow { at: 300, index_bytes: 5, ..SummaryRow::default() });
    check(&ProvenanceRow { pushes: vec![push_record(1), push_record(2)] });
    check(&pin_row(2));
    check(&retention_row(3));
    check(&upstreams_row(3));
    check(&issued_row(3));
    check(&collection_row(3));
    check(&LeaseRow { holder: 1 << 100, until: 7 });
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

/// Returns bytes as hex digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Rows that were written stay readable: a change here is a new version of the row.
#[test]
fn encodings_stay() {
    let pack = PackRow {
        state: PackState::Live,
        seq: 300,
        durable_bytes: 1,
        stored_bytes: 2,
        unique_bytes: 3,
        reserved_at: 4,
    };
    let written = [
        (pack.encode(), "010104ac02010203"),
        (alias_row(1).encode(), &["01", &"01".repeat(32), "02787af403"].concat()),
        (
            nar_row(1).encode(),
            &["01", &"01".repeat(32), "02", &"01".repeat(20), &"02".repeat(20), "e90714901c"].concat(),
        ),
        (
            recipe_row(&[1, 2]).encode(),
            &["01", &"01".repeat(16), "8020ac02", "8080808020", "07", "02", &"01".repeat(16), &"02".repeat(16), "00"]
                .concat(),
        ),
        (path_row(1, 300).encode(), PATH_ROW),
        (document_row(2).encode(), "01001402020202020202020202020202020202020202020b00086f70657261746f72"),
        (
            cache_row(1).encode(),
            "0101010a2f6e69782f73746f72650001010105613a6b65790105753a6b65790108623a73656372657400010d63616368652e6578616d706c6501",
        ),
        (token_row(1).encode(), &["01", &"01".repeat(32), "02636901067465616d2d2a02000103010400"].concat()),
        (pin_row(2).encode(), PIN_ROW),
        (RetentionRow { keep_seconds: Some(300), keep_last: Some(2), quota_bytes: None }.encode(), "0101ac02010200"),
        (LeaseRow { holder: 5, until: 300 }.encode(), "0105ac02"),
        (
            store_info(1).encode(),
            "0101266e61722d666173746364632d76323032302f31363338342d36353533362d3236323134342f310101",
        ),
        (
            UsageRow { pushes: 1, paths: 300, last_at: 2, ..UsageRow::default() }.encode(),
            &["0101ac02", &"00".repeat(7), "02"].concat(),
        ),
        (
            SummaryRow { at: 1, paths: 2, index_bytes: 300, ..SummaryRow::default() }.encode(),
            &["010102", &"00".repeat(11), "ac02"].concat(),
        ),
        (
            ProvenanceRow { pushes: vec![push_record(1)] }.encode(),
            &["01010b0107076275696c64657201093139322e302e322e31", &"01".repeat(32), "01056b65792d3100"].concat(),
        ),
    ];
    for (bytes, expected) in written {
        assert_eq!(hex(&bytes), expected);
    }
}

const PIN_ROW: &str = "012a30303230303230303230303230303230303230303230303230303230303230302d7061636b6167652d32\
    0c01ac0200086f70657261746f72";

const PATH_ROW: &str = "012a30303130303130303130303130303130303130303130303130303130303130302d7061636b6167652d31\
    0101010101010101010101010101010101010101010101010101010101010101ac02\
    022a30303130303130303130303130303130303130303130303130303130303130302d7061636b6167652d31\
    2a30303230303230303230303230303230303230303230303230303230303230302d7061636b6167652d32\
    012a30303330303330303330303330303330303330303330303330303330303330302d7061636b6167652d33\
    0001126b65792d313a63326c6e626d463064584a6c0a0101076275696c646572\
    010202020202020202020202020202020202020202020202020202020202020202050000\
    09";
