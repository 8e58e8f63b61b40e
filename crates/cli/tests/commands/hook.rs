use std::os::unix::fs::symlink;

use crate::support::Home;

const PATH: &str = "/nix/store/0fanvwfh6772nmhmbw78d8jmj0dr6lpc-x";

/// A machine with a hook as Nix runs it: a program without arguments, and the paths in a variable.
fn home(out_paths: &str) -> Home {
    let mut home = Home::new();
    symlink(env!("CARGO_BIN_EXE_firn"), home.file("firn-hook")).expect("linked");
    home.set("OUT_PATHS", out_paths);
    home.set("FIRN_AGENT_SOCKET", home.file("none.sock").to_str().expect("UTF-8"));
    home.set("FIRN_AGENT_STATE", home.file("state").to_str().expect("UTF-8"));
    home
}

#[test]
fn a_link_called_firn_hook_is_the_hook() {
    let home = home(PATH);
    let output = home.command(home.file("firn-hook").to_str().expect("UTF-8")).output().expect("runs");
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(home.read("state/spool").contains("0fanvwfh6772nmhmbw78d8jmj0dr6lpc-x"));
}

#[test]
fn an_empty_variable_names_nothing_and_the_paths_are_left_all_the_same() {
    let mut home = home(PATH);
    for name in ["FIRN_AGENT_SOCKET", "FIRN_CONFIG"] {
        home.set(name, "");
    }
    let program = home.file("firn-hook");
    let mut hook = home.command(program.to_str().expect("UTF-8"));
    let output = hook.args(["--name", "that-nobody-has"]).output().expect("runs");
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(home.exists("state/spool"), "{output:?}");
}

#[test]
fn the_hook_never_fails_a_build() {
    let home = home(PATH);
    // No folder can be made below a file.
    home.write("state", "");
    for arguments in [&[][..], &["--nonsense"], &["nonsense"]] {
        let output =
            home.command(home.file("firn-hook").to_str().expect("UTF-8")).args(arguments).output().expect("runs");
        assert!(output.status.success() && output.stdout.is_empty() && !output.stderr.is_empty(), "{output:?}");
    }
    // A configuration that is bad is none of its business.
    home.write(".config/firn/config.toml", "nonsense");
    home.firn(&["hook"]).expect(0);
}
