# Stands in for nixpkgs where there is no network: as much of it as firn's Nix files use.
{
  outputs = _: {
    lib = (import ./lib.nix) // {
      nixosSystem = import ./nixos.nix;
    };
    legacyPackages.x86_64-linux = import ./. { };
    legacyPackages.aarch64-linux = import ./. { system = "aarch64-linux"; };
  };
}
