//! A builder's Nix store.
