use std::io::Write as _;

use super::*;
use crate::daemon::wire::{put_number, put_text};

const LAST: u64 = 0x616c_7473;
const NAME: &str = "0fanvwfh6772nmhmbw78d8jmj0dr6lpc-top";

enum Part<'a> {
    Number(u64),
    Text(&'a str),
}
use Part::{Number, Text};

fn bytes(parts: &[Part<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        match part {
            Number(number) => put_number(&mut bytes, *number),
            Text(text) => put_text(&mut bytes, text),
        }
    }
    bytes
}

/// Connects to a daemon that says this whatever it is asked, and then nothing.
fn connect(script: &[u8]) -> (Result<Daemon>, UnixStream) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(script).unwrap();
    theirs.shutdown(std::net::Shutdown::Write).unwrap();
    (Daemon::over(ours, "/nix/store"), theirs)
}

fn greeting(version: u64) -> Vec<u8> {
    let mut script = bytes(&[Number(DAEMON_MAGIC), Number(version)]);
    if version >= WITH_NIX_VERSION {
        script.extend(bytes(&[Text("2.x")]));
    }
    if version >= WITH_TRUST {
        script.extend(bytes(&[Number(1)]));
    }
    script.extend(bytes(&[Number(LAST)]));
    script
}

fn path() -> StorePath {
    StorePath::from_base_name(NAME).unwrap()
}

fn is_lost<T: std::fmt::Debug>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::DaemonLost { .. }))
}

#[test]
fn says_that_nobody_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let location = Location::for_root(directory.path());
    let error = Daemon::connect(&location).unwrap_err();
    assert!(matches!(&error, Error::DaemonUnreachable { socket, .. } if *socket == location.daemon_socket), "{error}");
}

#[test]
fn refuses_other_services_and_versions() {
    assert!(is_lost(&connect(b"").0));
    assert!(is_lost(&connect(b"HTTP/1.1 400 Bad Request\r\n\r\n").0));
    for (version, major, minor) in [(1 << 8 | 25, 1, 25), (2 << 8 | 1, 2, 1), (0, 0, 0), (u64::MAX, u64::MAX >> 8, 255)]
    {
        let error = connect(&greeting(version)).0.unwrap_err();
        let Error::DaemonVersion { major: found_major, minor: found_minor } = error else { panic!("{error}") };
        assert_eq!((found_major, found_minor), (major, minor));
    }
}

#[test]
fn every_cut_is_a_lost_connection() {
    let whole = greeting(1 << 8 | 38);
    for cut in 0..whole.len() {
        assert!(is_lost(&connect(&whole[..cut]).0), "{cut}");
    }
    let answer = bytes(&[Number(LAST), Number(1), Text(""), Text(&"0".repeat(64)), Number(0), Number(1), Number(120)]);
    for cut in 0..answer.len() {
        let (daemon, _theirs) = connect(&[&whole[..], &answer[..cut]].concat());
        let mut daemon = daemon.unwrap();
        assert!(is_lost(&daemon.info(&path())), "{cut}");
        assert!(is_lost(&daemon.is_valid(&path())), "{cut}");
    }
}

#[test]
fn speaks_the_older_of_two_versions() {
    for (version, nix_version, trust) in
        [(1 << 8 | 26, None, None), (1 << 8 | 34, Some("2.x"), None), (1 << 8 | 60, Some("2.x"), Some(true))]
    {
        let mut script = greeting(version);
        script.extend(bytes(&[Number(LAST), Number(1), Number(LAST), Number(0)]));
        let (daemon, _theirs) = connect(&script);
        let mut daemon = daemon.unwrap();
        assert_eq!((daemon.nix_version(), daemon.trusts_us()), (nix_version, trust));
        assert!(daemon.is_valid(&path()).unwrap());
        assert!(!daemon.is_valid(&path()).unwrap());
    }
}

#[test]
fn an_error_of_the_daemons_does_not_end_the_connection() {
    let mut script = greeting(1 << 8 | 35);
    let error = [Text("Error"), Number(0), Text("Error"), Text("not allowed"), Number(0), Number(0)];
    script.extend(bytes(&[Number(0x6378_7470)]));
    script.extend(bytes(&error));
    script.extend(bytes(&[Number(LAST), Number(1)]));
    let (daemon, _theirs) = connect(&script);
    let mut daemon = daemon.unwrap();
    let refused = daemon.add_temp_root(&path()).unwrap_err();
    assert!(matches!(&refused, Error::DaemonRefused { message, .. } if message == "not allowed"), "{refused}");
    assert!(daemon.is_valid(&path()).unwrap());
}

#[test]
fn an_answer_that_makes_no_sense_does_not_end_it_either() {
    let top = format!("/nix/store/{NAME}");
    let hash = "0".repeat(64);
    let info = |deriver, hash, reference, size| {
        let head = [Number(LAST), Number(1), Text(deriver), Text(hash), Number(1), Text(reference)];
        let tail = [Number(u64::MAX), Number(size), Number(1), Number(1), Text("a:b"), Text("")];
        [bytes(&head), bytes(&tail)].concat()
    };
    let script = [
        greeting(1 << 8 | 35),
        info("", "", &top, 1),
        info("", &hash, "/gnu/store/x", 1),
        info("x", &hash, &top, 1),
        info("", &hash, &top, 0),
        info("", &hash, &top, 1),
        bytes(&[Number(LAST), Number(2), Text("/nix/store/odd"), Text(&top)]),
    ];
    let (daemon, _theirs) = connect(&script.concat());
    let mut daemon = daemon.unwrap();
    for number in 0..4 {
        let error = daemon.info(&path()).unwrap_err();
        assert!(matches!(&error, Error::DaemonAnswer { what, .. } if *what == top), "{number} {error}");
    }
    let info = daemon.info(&path()).unwrap().unwrap();
    assert_eq!((info.references, info.registered_at, info.ca), (vec![path()], 0, None));
    let names = daemon.all_valid().unwrap();
    assert_eq!((names.paths, names.unreadable.len()), (vec![path()], 1));
}
