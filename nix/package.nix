# One program of the workspace.
{
  lib,
  rustPlatform,
  program,
  crate,
  description,
}:
rustPlatform.buildRustPackage {
  pname = program;
  version = (builtins.fromTOML (builtins.readFile ../Cargo.toml)).workspace.package.version;

  # What Cargo reads, and nothing else: a change of the documentation builds nothing again.
  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../.cargo
      ../Cargo.toml
      ../Cargo.lock
      ../crates
      ../benches
      ../tests
    ];
  };
  cargoLock.lockFile = ../Cargo.lock;

  # RocksDB's bindings are generated with libclang.
  nativeBuildInputs = lib.optional (program == "firnd") rustPlatform.bindgenHook;

  cargoBuildFlags = [
    "--package"
    crate
    "--bin"
    program
  ];

  # The tests drive real Nix of several versions, which the sandbox has not: `make test` runs them.
  doCheck = false;

  # Nix takes a post-build-hook without arguments: the program is a hook under this name.
  postInstall = lib.optionalString (program == "firn") ''
    ln -s firn $out/bin/firn-hook
  '';

  meta = {
    inherit description;
    license = [
      lib.licenses.asl20
      lib.licenses.mit
    ];
    mainProgram = program;
    platforms = lib.platforms.linux;
  };
}
