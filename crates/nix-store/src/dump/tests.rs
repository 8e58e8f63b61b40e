use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use firn_testkit::nar::Node;

use super::*;

const NAME: &str = "0fanvwfh6772nmhmbw78d8jmj0dr6lpc-top";

struct Fixture {
    directory: tempfile::TempDir,
    location: Location,
    path: StorePath,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let location = Location::for_root(directory.path());
        fs::create_dir_all(&location.real_store_dir).unwrap();
        Self { directory, location, path: StorePath::from_base_name(NAME).unwrap() }
    }

    /// Returns where a file of the store path is.
    fn at(&self, name: &str) -> PathBuf {
        let root = self.location.on_disk(&self.path);
        if name.is_empty() { root } else { root.join(name) }
    }

    /// Makes the store path a directory of these files.
    fn with_files(files: &[(&str, &[u8])]) -> Self {
        let fixture = Self::new();
        for (name, contents) in files {
            fs::create_dir_all(fixture.at(name).parent().unwrap()).unwrap();
            fs::write(fixture.at(name), contents).unwrap();
        }
        fixture
    }

    fn dump(&self) -> Result<Vec<u8>> {
        let mut nar = Vec::new();
        let dumped = dump(&self.location, &self.path, &mut nar)?;
        assert_eq!(dumped.bytes, nar.len() as u64);
        Ok(nar)
    }

    /// Dumps, and does something once so many bytes came out.
    fn dump_while(&self, after_bytes: usize, act: impl FnOnce()) -> Result<Dumped> {
        dump(&self.location, &self.path, &mut Acting { left: after_bytes, act: Some(act) })
    }
}

struct Acting<F> {
    left: usize,
    act: Option<F>,
}

impl<F: FnOnce()> Write for Acting<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.saturating_sub(bytes.len());
        if self.left == 0
            && let Some(act) = self.act.take()
        {
            act();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

static LARGE: [u8; 3 * BUFFER] = [7; 3 * BUFFER];

#[test]
fn names_what_vanished() {
    let fixture = Fixture::new();
    let error = fixture.dump().unwrap_err();
    assert!(matches!(&error, Error::Vanished { path } if *path == fixture.at("")), "{error}");

    let fixture = Fixture::with_files(&[("a", &LARGE), ("b/c", b"c"), ("d", b"d")]);
    let error = fixture.dump_while(BUFFER, || fs::remove_dir_all(fixture.at("b")).unwrap()).unwrap_err();
    assert!(matches!(&error, Error::Vanished { path } if *path == fixture.at("b")), "{error}");
}

#[test]
fn notices_what_changed_under_it() {
    let act_on = |act: &dyn Fn(&Path)| {
        let fixture = Fixture::with_files(&[("a", &LARGE), ("b", &LARGE)]);
        let error = fixture.dump_while(BUFFER, || act(&fixture.at(""))).unwrap_err();
        let Error::Changed { path, why } = error else { panic!("{error}") };
        (path.strip_prefix(fixture.at("")).unwrap().to_str().unwrap().to_owned(), why)
    };
    let shorten =
        |path: &Path| fs::File::options().write(true).open(path.join("a")).unwrap().set_len(BUFFER as u64).unwrap();
    assert_eq!(act_on(&shorten), ("a".to_owned(), "it became shorter while it was read"));
    let lengthen =
        |path: &Path| fs::File::options().append(true).open(path.join("a")).unwrap().write_all(b"x").unwrap();
    assert_eq!(act_on(&lengthen), ("a".to_owned(), "it was written to while it was read"));
    let swap_for = |make: &dyn Fn(&Path)| {
        act_on(&|path| {
            fs::remove_file(path.join("b")).unwrap();
            make(&path.join("b"));
        })
    };
    assert_eq!(swap_for(&|at| symlink("/etc/passwd", at).unwrap()), ("b".to_owned(), "something else took its place"));
    let directory = |at: &Path| fs::create_dir(at).unwrap();
    assert_eq!(swap_for(&directory), ("b".to_owned(), "it was a file and is none"));
    let pipe = |at: &Path| rustix::fs::mknodat(CWD, at, FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert_eq!(swap_for(&pipe), ("b".to_owned(), "it was a file and is none"));
}

#[test]
fn refuses_what_no_nar_can_hold() {
    let fixture = Fixture::with_files(&[("a", b"a")]);
    rustix::fs::mknodat(CWD, fixture.at("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let error = fixture.dump().unwrap_err();
    assert!(
        matches!(&error, Error::NotArchivable { path, why } if *path == fixture.at("pipe") && why.contains("named pipe")),
        "{error}"
    );

    let fixture = Fixture::new();
    fs::create_dir_all(fixture.at(&"d/".repeat(MAX_DEPTH - 1))).unwrap();
    fixture.dump().unwrap();
    fs::create_dir_all(fixture.at(&"d/".repeat(MAX_DEPTH))).unwrap();
    let error = fixture.dump().unwrap_err();
    assert!(matches!(&error, Error::NotArchivable { why, .. } if why.contains("256 deep")), "{error}");
}

#[test]
fn says_what_cannot_be_read() {
    let fixture = Fixture::with_files(&[("a", b"a")]);
    fs::remove_dir_all(fixture.at("")).unwrap();
    // A loop on the way to the store is what root is refused as well.
    let looping = fixture.directory.path().join("loop");
    symlink("loop", &looping).unwrap();
    let location = Location { real_store_dir: looping, ..fixture.location.clone() };
    let error = dump(&location, &fixture.path, &mut io::sink()).unwrap_err();
    assert!(
        matches!(&error, Error::Unreadable { source, .. } if source.raw_os_error() == Some(Errno::LOOP.raw_os_error())),
        "{error}"
    );
}

#[test]
fn hands_back_what_the_writer_said() {
    struct Refusing(usize);
    impl Write for Refusing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.0);
            self.0 -= n;
            if n == 0 { Err(io::Error::other("full")) } else { Ok(n) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let fixture = Fixture::with_files(&[("a", &LARGE), ("b", b"b")]);
    let whole = fixture.dump().unwrap().len();
    for most in [0, 10, GATHERED, BUFFER + 1, whole - 1] {
        let error = dump(&fixture.location, &fixture.path, &mut Refusing(most)).unwrap_err();
        assert!(matches!(&error, Error::Sink { source } if source.to_string() == "full"), "{most}: {error}");
    }
    assert!(dump(&fixture.location, &fixture.path, &mut Refusing(whole)).is_ok());
}

#[test]
fn dumps_files_of_every_size_and_kind() {
    for size in [0, 1, 8, GATHERED, BUFFER - 1, BUFFER, BUFFER + 1, LARGE.len()] {
        let fixture = Fixture::new();
        fs::write(fixture.at(""), &LARGE[..size]).unwrap();
        assert_eq!(fixture.dump().unwrap(), Node::file(&LARGE[..size]).encode(), "{size}");
    }
    let fixture = Fixture::with_files(&[("b", b"b"), ("B.", b""), ("a/z", b"z"), ("a/é", b"e")]);
    fs::set_permissions(fixture.at("b"), fs::Permissions::from_mode(0o555)).unwrap();
    symlink("../nowhere", fixture.at("a.b")).unwrap();
    fs::create_dir(fixture.at("empty")).unwrap();
    let tree = Node::directory([
        ("B.", Node::file("")),
        ("a", Node::directory([("z", Node::file("z")), ("é", Node::file("e"))])),
        ("a.b", Node::Symlink { target: b"../nowhere".to_vec() }),
        ("b", Node::Regular { executable: true, contents: b"b".to_vec() }),
        ("empty", Node::directory::<&str>([])),
    ]);
    assert_eq!(fixture.dump().unwrap(), tree.encode());
}

#[test]
fn does_not_mind_that_equal_files_are_linked() {
    let fixture = Fixture::with_files(&[("a", &LARGE), ("b", &LARGE)]);
    let before = fixture.dump().unwrap();
    let links = fixture.directory.path().join("links");
    fixture
        .dump_while(BUFFER, || {
            fs::hard_link(fixture.at("a"), &links).unwrap();
            fs::hard_link(&links, fixture.at("").with_extension("tmp")).unwrap();
            fs::rename(fixture.at("").with_extension("tmp"), fixture.at("b")).unwrap();
        })
        .unwrap();
    assert_eq!(fixture.dump().unwrap(), before);
}

#[test]
fn tells_what_passes_from_what_stays() {
    let fixture = Fixture::new();
    let sink = Sink { out: &mut io::sink(), failed: None };
    let dump = Dump { writer: Writer::new(BufWriter::new(sink)), at: fixture.at("a"), buffer: Vec::new() };
    let passes = |errno: Errno| match dump.on::<()>(Err(errno)).unwrap_err() {
        Error::Hindered { path, source }
            if path == fixture.at("a") && source.raw_os_error() == Some(errno.raw_os_error()) =>
        {
            true
        }
        Error::Unreadable { path, .. } if path == fixture.at("a") => false,
        other => panic!("{errno}: {other}"),
    };
    for errno in [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::AGAIN,
        Errno::INTR,
        Errno::IO,
        Errno::STALE,
        Errno::TIMEDOUT,
        Errno::HOSTDOWN,
        Errno::NOTCONN,
    ] {
        assert!(passes(errno), "{errno}");
    }
    for errno in [Errno::ACCESS, Errno::PERM, Errno::LOOP, Errno::NAMETOOLONG, Errno::NOTDIR, Errno::INVAL] {
        assert!(!passes(errno), "{errno}");
    }
    let unnumbered = dump.unreadable(io::ErrorKind::UnexpectedEof.into());
    assert!(matches!(unnumbered, Error::Hindered { .. }), "{unnumbered}");
}
