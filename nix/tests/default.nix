# What the modules make of the example and of its variations, as one value that a test reads:
#   nix-instantiate --eval --read-write-mode --strict --json nix/tests
let
  lib = import ./nixpkgs/lib.nix;
  nixos = import ./nixpkgs/nixos.nix;
  modules = builtins.attrValues (import ../modules);
  evaluate = extra: nixos { modules = modules ++ extra; };
  with' = change: evaluate [
    ./example.nix
    change
  ];
  fails =
    change:
    let
      machine = with' change;
      all = [
        machine.texts
        machine.config.networking.firewall
        machine.config.nix.settings
      ];
    in
    !(builtins.tryEval (builtins.deepSeq all true)).success;

  example = with' { };
  settings = machine: builtins.readFile machine.config.systemd.services.firnd.environment.FIRN_CONFIG;
  script = machine: builtins.readFile (lib.last machine.config.systemd.services.firnd.serviceConfig.ExecStartPre);

  tls = with' {
    services.firnd = {
      listen = lib.mkForce [
        "0.0.0.0:443"
        "[::]:443"
      ];
      tls.certificateFile = "/c.pem";
      tls.keyFile = "/k.pem";
    };
  };
in
{
  units = example.texts;
  config = settings example;
  create-caches = script example;
  inherit (example.config.nix) settings;
  ports = example.config.networking.firewall.allowedTCPPorts;
  users = builtins.attrNames example.config.users.users;

  tls = {
    units = tls.texts;
    config = settings tls;
    inherit (tls.config.networking.firewall) allowedTCPPorts;
  };

  nothing-by-default =
    let
      inherit (evaluate [ ]) config texts;
    in
    [
      texts
      config.nix.settings
      config.users.users
      config.environment.systemPackages
    ];
  # Nothing of a URL means something to systemd.
  odd-url =
    (with' { services.firn-watch-store.cache = lib.mkForce "https://h/a%20b$x"; })
    .config.systemd.services.firn-watch-store.serviceConfig.ExecStart;
  without-hook = (with' { services.firn-watch-store.hook = false; }).config.nix.settings;

  # Each has to be refused.
  refused = builtins.mapAttrs (_: fails) {
    token-in-the-store = {
      services.firn-watch-store.tokenFile = lib.mkForce "/nix/store/0fanvwfh6772nmhmbw78d8jmj0dr6lpc-token";
    };
    certificate-without-key.services.firnd.tls.certificateFile = "/c.pem";
    unknown-option.services.firnd.colour = "blue";
    unknown-option-of-a-cache.services.firnd.caches.main.colour = "blue";
    wrong-type.services.firnd.openFirewall = lib.mkForce "yes";
    token-missing.services.firn-watch-store.tokenFile = lib.mkForce null;
  };

  packages = builtins.mapAttrs (_: package: {
    inherit (package) name meta cargoBuildFlags postInstall;
  }) { inherit (import ../. { pkgs = import ./nixpkgs { }; }) firn firnd; };
}
