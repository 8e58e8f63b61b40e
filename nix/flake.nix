# The repository has to be taken whole, since the packages are built from its root:
#   nix build 'git+https://HOST/firn?dir=nix#firnd'
{
  description = "firn: a binary cache for Nix that stores what many builders produce, each piece once";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      eachSystem =
        make:
        nixpkgs.lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (system: make nixpkgs.legacyPackages.${system});
      modules = import ./modules;
    in
    {
      packages = eachSystem (
        pkgs:
        let
          built = import ./default.nix { inherit pkgs; };
        in
        {
          inherit (built) firn firnd;
          default = built.firn;
        }
      );

      overlays.default = final: _: {
        inherit (import ./default.nix { pkgs = final; }) firn firnd;
      };

      nixosModules = modules // {
        default.imports = builtins.attrValues modules;
      };

      # That both modules evaluate within NixOS, and the units that they make.
      checks = eachSystem (
        pkgs:
        let
          machine = nixpkgs.lib.nixosSystem {
            modules = [
              self.nixosModules.default
              ./tests/example.nix
              { nixpkgs.hostPlatform = pkgs.stdenv.hostPlatform.system; }
            ];
          };
        in
        {
          firnd-unit = machine.config.systemd.units."firnd.service".unit;
          firn-watch-store-unit = machine.config.systemd.units."firn-watch-store.service".unit;
        }
      );
    };
}
