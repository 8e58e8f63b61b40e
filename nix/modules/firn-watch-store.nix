# services.firn-watch-store: the agent that pushes everything that this machine builds.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  hardening = import ./hardening.nix;
  cfg = config.services.firn-watch-store;

  # What systemd would take for its own: specifiers and variables.
  plain = builtins.replaceStrings [ "%" "$" ] [ "%%" "$$" ];
  arguments = plain (lib.escapeShellArgs (cfg.extraFlags ++ [ cfg.cache ]));
in
{
  options.services.firn-watch-store = {
    enable = lib.mkEnableOption "the agent that pushes what is built here to a firn cache";

    package = lib.mkOption {
      type = lib.types.package;
      default = (import ../default.nix { inherit pkgs; }).firn;
      defaultText = lib.literalExpression "(import ../default.nix { inherit pkgs; }).firn";
      description = "The package to use.";
    };

    cache = lib.mkOption {
      type = lib.types.str;
      example = "https://cache.example.org/main";
      description = "The cache to push to: its URL, or a name in /etc/firn/config.toml.";
    };

    tokenFile = lib.mkOption {
      type = lib.types.str;
      example = "/run/secrets/firn-token";
      description = ''
        A file with a token that may push, readable by root. It is no path of the store: everybody can read those.
        It is read when the service starts: restart it when the token changes.
      '';
    };

    hook = lib.mkOption {
      type = lib.types.bool;
      default = true;
      description = ''
        Whether Nix tells the agent of each build at once (post-build-hook). Without it the agent finds new paths
        by itself, up to 15 s later. Turn it off if another hook is in use.
      '';
    };

    extraFlags = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ ];
      description = "Further options of `firn watch-store`.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = !(lib.hasPrefix builtins.storeDir cfg.tokenFile);
        message = "services.firn-watch-store.tokenFile is in the store, where everybody can read it";
      }
    ];

    # A hook that fails ends the build: this one ends with 0 whatever happens.
    nix.settings = lib.mkIf cfg.hook { post-build-hook = "${cfg.package}/bin/firn-hook"; };

    # For `firn watch-store status`, `firn doctor`.
    environment.systemPackages = [ cfg.package ];

    systemd.services.firn-watch-store = {
      description = "Push what is built here to a firn cache";
      documentation = [ "man:nix.conf(5)" ];
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [
        "network-online.target"
        "nix-daemon.socket"
      ];
      # A new version takes up the queue where the old one left it.
      stopIfChanged = false;
      serviceConfig = hardening // {
        Type = "notify";
        ExecStart = "${cfg.package}/bin/firn watch-store --token-file %d/token ${arguments}";
        LoadCredential = [ "token:${cfg.tokenFile}" ];
        # Root without any capability: the database of Nix is root's, and reading it needs its lock files.
        ReadWritePaths = [ "-/nix/var/nix/db" ];
        # As root SQLite gives its log files the owner that they have, whenever it opens a database. Without CAP_CHOWN that is
        # all that these calls can do; to answer every denied call with an error instead would hide what else is missing.
        SystemCallFilter = hardening.SystemCallFilter ++ [ "@chown" ];
        RuntimeDirectory = "firn";
        RuntimeDirectoryMode = "0755";
        # Other agents of this machine have their sockets there too.
        RuntimeDirectoryPreserve = "yes";
        StateDirectory = "firn";
        StateDirectoryMode = "0700";
        Restart = "always";
        RestartSec = "5s";
        TimeoutStopSec = "90s";
        WatchdogSec = "120s";
        # Builds go first.
        Nice = 10;
        IOSchedulingClass = "idle";
        MemoryHigh = "512M";
      };
    };
  };
}
