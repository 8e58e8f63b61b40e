# The packages, without flakes:
#   nix-build nix -A firnd
{
  pkgs ? import <nixpkgs> { },
}:
{
  # The server and its administration.
  firnd = pkgs.callPackage ./package.nix {
    program = "firnd";
    crate = "firn-server";
    description = "Binary cache for Nix that stores every piece once";
  };

  # The client: never links RocksDB, so it is built in a fraction of the time.
  firn = pkgs.callPackage ./package.nix {
    program = "firn";
    crate = "firn-cli";
    description = "Push what Nix builds to a firn cache, sending only what it lacks";
  };

  # NixOS modules, by the names of their services.
  modules = import ./modules;
}
