//! What is signed of a realisation: that a certain output of a derivation is a certain path.

use std::collections::BTreeMap;

use serde_json::json;

use crate::StorePath;

/// Returns what Nix up to 2.34 signs: `id` is `sha256:HEX!OUTPUT`, `dependents` are the realisations that it depends on, by their ids. 2.34 reads none: it
/// verifies as if there were none.
#[must_use]
pub fn realisation_fingerprint(id: &str, out_path: &StorePath, dependents: &BTreeMap<String, String>) -> String {
    // In the order of the names, as Nix prints it: so does serde_json.
    json!({"dependentRealisations": dependents, "id": id, "outPath": out_path.base_name()}).to_string()
}

/// Returns what Nix signs from 2.35 on.
#[must_use]
pub fn build_trace_fingerprint(derivation: &StorePath, output: &str, out_path: &StorePath) -> String {
    let key = json!({"drvPath": derivation.base_name(), "outputName": output});
    json!({"key": key, "value": {"outPath": out_path.base_name()}}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PublicKey, Signature};

    #[test]
    fn what_nix_signed_is_found_right() {
        let key: PublicKey = "s2-1:6D6OldDtSWKETGJWLzheedKoJqDF86uAQwtWAK1Yr0k=".parse().expect("a key");
        let leaf = "sha256:72be314515187c22d3a426819e21dd20865583bde98174087b76c3f209047bd2!out";
        let top = "sha256:9be39a1caa3fce9998e9e8760704c992e69d73260ff2c7d1a1b4e022f0989a56!out";
        let leaf_path = "5bdrw71ayb77al76vjkbf5sal0vgcsvj-ca-1";
        let dependents = BTreeMap::from([(leaf.to_owned(), leaf_path.to_owned())]);
        // By Nix 2.8 and 2.26, 2.8, 2.26, and 2.34.
        for (id, path, dependents, signature) in [
            (
                leaf,
                leaf_path,
                &BTreeMap::new(),
                "c6UwaBplk0dTB7dRse83mP+jpLVPnSXNkZViqgJHmiDrvZWQHIKCKHnAC8hCu5k2PYjJR5bvGtCpEqU0U3f5AQ==",
            ),
            (
                top,
                "lq1kwkln6x5dmzgf505s6rzzmcx26m5g-catop-1",
                &dependents,
                "oUGEd+2QaLh1vKwSxyxyrM6JiPtQ9P16yA+ewctqvi+8hG74oBWOzESxjzWXdu7g0nuiHSdi+ZYfwKMdzRbAAg==",
            ),
            (
                top,
                "bi0dp6193aij5sj0micpdgwjhwks3rbv-catop-1",
                &dependents,
                "g9xK4Nta3roH5BD6NtSsRFm2cp3QhcLkLkE8s3DxZnaQirCeLjlypR1YQwIEhXcMjUFHR5sx5K3lxeZ1jQT0Bw==",
            ),
            (
                top,
                "bi0dp6193aij5sj0micpdgwjhwks3rbv-catop-1",
                &BTreeMap::new(),
                "g+bkXnYrpOQQ26zkNw4moLH2fomm9MNEvBHNAc5EUJITBLDUPxBCR20L4v17aKMcyh5b2Xw0bUMfRYtUR0eYDw==",
            ),
        ] {
            let signature: Signature = format!("s2-1:{signature}").parse().expect("a signature");
            let fingerprint = realisation_fingerprint(id, &path.parse().expect(path), dependents);
            assert!(key.verify(fingerprint.as_bytes(), &signature), "{fingerprint}");
            let other = realisation_fingerprint(
                leaf,
                &"bi0dp6193aij5sj0micpdgwjhwks3rbv-x".parse().expect("a path"),
                dependents,
            );
            assert!(!key.verify(other.as_bytes(), &signature));
        }
    }

    #[test]
    fn a_build_trace_names_derivation_and_output() {
        let path = |text: &str| -> StorePath { text.parse().expect(text) };
        let drv = path("krlfd98sj7hc7q31kg1zx139kxnmpwgv-catop-1.drv");
        assert_eq!(
            build_trace_fingerprint(&drv, "out", &path("bi0dp6193aij5sj0micpdgwjhwks3rbv-catop-1")),
            "{\"key\":{\"drvPath\":\"krlfd98sj7hc7q31kg1zx139kxnmpwgv-catop-1.drv\",\"outputName\":\"out\"},\
             \"value\":{\"outPath\":\"bi0dp6193aij5sj0micpdgwjhwks3rbv-catop-1\"}}"
        );
    }
}
