{
  firnd = ./firnd.nix;
  firn-watch-store = ./firn-watch-store.nix;
}
