# services.firnd: the cache server.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.firnd;
  format = pkgs.formats.toml { };
  dataDir = "/var/lib/firnd";
  credentials = "/run/credentials/firnd.service";

  hasTls = cfg.tls.certificateFile != null;
  settings = lib.recursiveUpdate {
    server = {
      inherit (cfg) listen;
    }
    // lib.optionalAttrs hasTls {
      tls-cert = "${credentials}/tls-cert";
      tls-key = "${credentials}/tls-key";
    };
  } cfg.settings;
  configFile = format.generate "firnd.toml" settings;

  portOf = address: lib.toInt (lib.last (lib.splitString ":" address));
  ports = map portOf cfg.listen;
  needsLowPort = lib.any (port: port < 1024) ports;

  withKey = lib.filterAttrs (_: cache: cache.signingKeyFile != null) cfg.caches;
  flagsOf =
    name: cache:
    lib.optional cache.public "--public"
    ++ lib.optional cache.root "--root"
    ++ lib.optionals (cache.priority != null) [
      "--priority"
      (toString cache.priority)
    ]
    ++ lib.optionals (cache.signingKeyFile != null) [
      "--signing-key"
      "${credentials}/key-${name}"
    ]
    ++ cache.extraFlags;

  # Runs before the server, on the store itself: afterwards every cache is there, and those that were are as they were.
  createCaches = pkgs.writeShellScript "firnd-create-caches" ''
    set -eu
    ensure() {
      code=0
      ${cfg.package}/bin/firnd cache show "$1" >/dev/null 2>&1 || code=$?
      case $code in
        0) ;;
        5) ${cfg.package}/bin/firnd cache create "$@" >/dev/null ;;
        *) echo "looking for the cache $1 failed with exit code $code" >&2; exit $code ;;
      esac
    }
    ${lib.concatStringsSep "\n" (
      lib.mapAttrsToList (name: cache: "ensure ${lib.escapeShellArgs ([ name ] ++ flagsOf name cache)}") cfg.caches
    )}
  '';

  cacheOptions = {
    options = {
      public = lib.mkOption {
        type = lib.types.bool;
        default = false;
        description = "Whether anyone may pull without a token.";
      };
      root = lib.mkOption {
        type = lib.types.bool;
        default = false;
        description = "Whether it stands at the root of the server's URL as well; one cache may.";
      };
      priority = lib.mkOption {
        type = lib.types.nullOr lib.types.int;
        default = null;
        description = "The lower, the earlier clients ask it. cache.nixos.org has 40, a new cache 30.";
      };
      signingKeyFile = lib.mkOption {
        type = lib.types.nullOr lib.types.str;
        default = null;
        example = "/run/secrets/cache-key";
        description = "A file with the secret key to sign with, as `nix key generate-secret` writes it. Without one a new key is made.";
      };
      extraFlags = lib.mkOption {
        type = lib.types.listOf lib.types.str;
        default = [ ];
        example = [
          "--on-conflict"
          "reject"
        ];
        description = "Further options of `firnd cache create`.";
      };
    };
  };
in
{
  options.services.firnd = {
    enable = lib.mkEnableOption "firnd, a binary cache for Nix";

    package = lib.mkOption {
      type = lib.types.package;
      default = (import ../default.nix { inherit pkgs; }).firnd;
      defaultText = lib.literalExpression "(import ../default.nix { inherit pkgs; }).firnd";
      description = "The package to use.";
    };

    listen = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ "127.0.0.1:8080" ];
      example = [ "[::]:8080" ];
      description = "Addresses with ports. The default answers this machine only, for a proxy before it.";
    };

    openFirewall = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Whether other machines may reach the ports of `listen`.";
    };

    tls = {
      certificateFile = lib.mkOption {
        type = lib.types.nullOr lib.types.str;
        default = null;
        example = "/var/lib/acme/cache.example.org/fullchain.pem";
        description = "The certificate chain, PEM. It is read when the service starts: restart it when the certificate is renewed.";
      };
      keyFile = lib.mkOption {
        type = lib.types.nullOr lib.types.str;
        default = null;
        description = "The certificate's private key, PEM.";
      };
    };

    caches = lib.mkOption {
      type = lib.types.attrsOf (lib.types.submodule cacheOptions);
      default = { };
      example = {
        main.public = true;
      };
      description = "Caches to create. One that is there already is left as it is: change it with `firnd cache set`.";
    };

    settings = lib.mkOption {
      inherit (format) type;
      default = { };
      example = {
        store.max-nar-size = "128 GiB";
      };
      description = "Further settings: `firnd config example` explains all of them.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = (cfg.tls.certificateFile == null) == (cfg.tls.keyFile == null);
        message = "services.firnd.tls: certificateFile and keyFile belong together";
      }
    ];

    users.users.firnd = {
      isSystemUser = true;
      group = "firnd";
      home = dataDir;
      description = "firnd";
    };
    users.groups.firnd = { };

    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall ports;

    # For administration: sudo -u firnd firnd cache list --data /var/lib/firnd
    environment.systemPackages = [ cfg.package ];

    systemd.services.firnd = {
      description = "Binary cache for Nix";
      documentation = [ "man:nix.conf(5)" ];
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      environment = {
        FIRN_DATA = dataDir;
        FIRN_CONFIG = "${configFile}";
      };
      serviceConfig = import ./hardening.nix // {
        Type = "exec";
        ExecStartPre = [ "${createCaches}" ];
        ExecStart = "${cfg.package}/bin/firnd serve";
        User = "firnd";
        Group = "firnd";
        StateDirectory = "firnd";
        StateDirectoryMode = "0700";
        WorkingDirectory = dataDir;
        LoadCredential =
          lib.optionals hasTls [
            "tls-cert:${cfg.tls.certificateFile}"
            "tls-key:${toString cfg.tls.keyFile}"
          ]
          ++ lib.mapAttrsToList (name: cache: "key-${name}:${cache.signingKeyFile}") withKey;
        AmbientCapabilities = lib.optionals needsLowPort [ "CAP_NET_BIND_SERVICE" ];
        CapabilityBoundingSet = lib.optionalString needsLowPort "CAP_NET_BIND_SERVICE";
        # More than a connection each: packs are open too.
        LimitNOFILE = 65536;
        PrivateUsers = !needsLowPort;
        ProcSubset = "pid";
        ProtectProc = "invisible";
        Restart = "on-failure";
        RestartSec = "2s";
        # Longer than server.shutdown-grace.
        TimeoutStopSec = "60s";
      };
    };
  };
}
