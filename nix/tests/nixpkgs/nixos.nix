# As much of NixOS as firn's modules set: the options, their types, and units written as systemd reads them.
{
  modules,
  system ? "x86_64-linux",
}:
let
  lib = import ./lib.nix;
  pkgs = import ./. { inherit system; };
  inherit (lib) mkOption types;

  option =
    type: default:
    mkOption { inherit type default; };
  any = option types.anything;

  service = {
    options = {
      description = mkOption { type = types.str; };
      documentation = option (types.listOf types.str) [ ];
      wantedBy = option (types.listOf types.str) [ ];
      wants = option (types.listOf types.str) [ ];
      after = option (types.listOf types.str) [ ];
      environment = option (types.attrsOf types.str) { };
      stopIfChanged = option types.bool true;
      serviceConfig = option types.attrs { };
    };
  };

  base = {
    options = {
      assertions = option (types.listOf types.attrs) [ ];
      boot.isContainer = any false;
      environment.systemPackages = option (types.listOf types.package) [ ];
      networking.firewall.allowedTCPPorts = option (types.listOf types.int) [ ];
      nix.settings = option (types.attrsOf types.anything) { };
      nixpkgs.hostPlatform = any system;
      system.stateVersion = any "";
      systemd.services = option (types.attrsOf (types.submodule service)) { };
      systemd.units = any { };
      users.users = option (types.attrsOf types.attrs) { };
      users.groups = option (types.attrsOf types.attrs) { };
    };
  };

  inherit ((lib.evalModules {
    modules = [ base ] ++ modules;
    specialArgs = { inherit lib pkgs; };
  })) config;

  # A list is a line for each of its values; a truth value is spelled as systemd does.
  lines =
    section:
    lib.concatStringsSep "" (
      lib.concatLists (
        lib.mapAttrsToList (
          name: value:
          map (one: "${name}=${if builtins.isBool one then (if one then "true" else "false") else toString one}\n") (
            if builtins.isList value then value else [ value ]
          )
        ) section
      )
    );

  unit = service: ''
    [Unit]
    ${lines {
      Description = service.description;
      Documentation = service.documentation;
      Wants = service.wants;
      After = service.after;
    }}
    [Service]
    ${lines (
      service.serviceConfig
      // {
        Environment = lib.mapAttrsToList (name: value: "\"${name}=${value}\"") service.environment;
      }
    )}
    [Install]
    ${lines { WantedBy = service.wantedBy; }}'';

  texts = builtins.mapAttrs (_: unit) config.systemd.services;
  failed = builtins.filter (one: !one.assertion) config.assertions;
in
if failed != [ ] then
  throw (lib.concatStringsSep "; " (map (one: one.message) failed))
else
  {
    inherit texts;
    config = lib.recursiveUpdate config {
      systemd.units = builtins.listToAttrs (
        lib.mapAttrsToList (name: text: {
          name = "${name}.service";
          value.unit = derivation {
            name = "unit-${name}.service";
            inherit system text;
            builder = "/bin/sh";
          };
        }) texts
      );
    };
  }
