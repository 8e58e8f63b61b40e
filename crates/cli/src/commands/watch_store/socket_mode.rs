//! The mode of the control socket.

/// Reads an octal mode. Others than owner and group may never write: who may, may have any path pushed.
pub(super) fn parse(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode & !0o777 == 0 && mode & 0o007 == 0 && mode & 0o600 == 0o600 => Ok(mode),
        _ => Err("an octal number as in 600 or 660, which gives the owner all and others nothing".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_get_nothing() {
        assert_eq!((parse("600"), parse("0660")), (Ok(0o600), Ok(0o660)));
        for bad in ["666", "601", "060", "1600", "9", "", "-1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
