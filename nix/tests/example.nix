# A machine that is a cache and a builder: every option of both modules that matters.
{
  boot.isContainer = true;
  system.stateVersion = "25.05";

  services.firnd = {
    enable = true;
    listen = [ "[::]:8080" ];
    openFirewall = true;
    caches.main = {
      public = true;
      priority = 20;
    };
    caches.team = {
      signingKeyFile = "/run/secrets/team-key";
      extraFlags = [
        "--on-conflict"
        "reject"
      ];
    };
    settings.store.max-nar-size = "128 GiB";
  };

  services.firn-watch-store = {
    enable = true;
    cache = "http://127.0.0.1:8080/main";
    tokenFile = "/run/secrets/firn-token";
  };
}
