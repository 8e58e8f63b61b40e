//! The program `firn`; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    firn_cli::main(std::env::args_os())
}
