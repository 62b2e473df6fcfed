use super::*;

const CONTENT: &[u8] = b"Subject: x\r\n\r\nbody\r\n";

fn now() -> Timestamp {
    runtime::clock::now()
}

struct Fixture {
    _dir: tempfile::TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("mail")).unwrap();
        Self { _dir: dir, store }
    }

    /// The same disk after the process was killed.
    fn restart(&mut self) {
        self.store = Store::open(self.store.root()).unwrap();
    }

    fn target(&self) -> Target {
        self.target_in(None)
    }

    fn target_in(&self, folder: Option<&str>) -> Target {
        let inbox = self.store.root().join("example.org/alice");
        Target::new(inbox, folder.map(str::to_owned), "1.X_0_0.p".into(), CONTENT.len() as u64)
    }

    /// As a reader makes it.
    fn make_folder(&self, name: &str) {
        for part in ["cur", "new", "tmp"] {
            fs::create_dir_all(self.target().inbox.join(name).join(part)).unwrap();
        }
    }

    /// Stores a copy, unless it is there, and says where: in which folder, whether it was there.
    fn store_in(&self, folder: &str) -> (Option<String>, bool) {
        let (target, beginning) = (self.target_in(Some(folder)), [Bytes::from_static(CONTENT)]);
        match self.store.begin(target, Search::Everywhere, &beginning, now()).unwrap() {
            Begun::Stored(folder) => (folder, true),
            Begun::Writing(draft) => {
                let folder = draft.folder();
                draft.publish().unwrap();
                (folder, false)
            }
        }
    }

    fn begin(&self, search: Search) -> Result<Begun, DiskError> {
        self.store.begin(self.target(), search, &[Bytes::from_static(CONTENT)], now())
    }

    fn draft(&self) -> Draft {
        match self.begin(Search::Everywhere).unwrap() {
            Begun::Writing(draft) => draft,
            Begun::Stored(_) => panic!("stored already"),
        }
    }

    fn is_stored(&self, search: Search) -> bool {
        matches!(self.begin(search).unwrap(), Begun::Stored(_))
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let dir = self.target().inbox.join(dir);
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

#[test]
fn written_in_tmp_and_moved_to_new() {
    let fixture = Fixture::new();
    let draft = fixture.draft();
    assert!(draft.is_whole());
    assert_eq!(fixture.names("tmp").len(), 1);
    assert!(fixture.names("new").is_empty());
    draft.publish().unwrap();
    assert!(fixture.names("tmp").is_empty());
    assert_eq!(fixture.names("new"), ["1.X_0_0.p,S=20"]);
    let stored = fs::read(fixture.target().inbox.join("new/1.X_0_0.p,S=20")).unwrap();
    assert_eq!(stored, CONTENT);
}

#[test]
fn a_sub_address_goes_to_a_folder_that_is_there() {
    for (made, asked, want) in [
        (".Lists", "lists", Some("Lists")),
        (".lists.rust", "Lists.Rust", Some("lists.rust")),
        (".Lists", "other", None),
        (".Lists", "../.Lists", None),
        (".Lists", ".Lists", None),
        ("Lists", "Lists", None),
        (".x", "new", None),
        (".Trash", "trash", None),
        ("..DOVECOT-TRASHED", ".dovecot-trashed", None),
    ] {
        let fixture = Fixture::new();
        fixture.make_folder(made);
        let want = want.map(str::to_owned);
        assert_eq!(fixture.store_in(asked), (want.clone(), false), "{asked}");
        assert_eq!(fixture.store_in(asked), (want.clone(), true), "{asked}");
        let new = format!("{}/new", if want.is_some() { made } else { "." });
        assert_eq!(fixture.names(&new), ["1.X_0_0.p,S=20"], "{asked}");
    }
}

#[test]
fn a_folder_made_meanwhile_takes_no_second_copy() {
    let fixture = Fixture::new();
    assert_eq!(fixture.store_in("lists"), (None, false));
    fixture.make_folder(".lists");
    assert_eq!(fixture.store_in("lists"), (None, true));
    fs::remove_file(fixture.target().inbox.join("new/1.X_0_0.p,S=20")).unwrap();
    assert_eq!(fixture.store_in("lists"), (Some("lists".to_owned()), false), "made anew");
    fixture.make_folder(".Lists");
    assert_eq!(fixture.store_in("Lists"), (Some("lists".to_owned()), true), "spelt otherwise");
    fs::remove_dir_all(fixture.target().inbox.join(".Lists")).unwrap();
    fs::remove_dir_all(fixture.target().inbox.join(".lists")).unwrap();
    assert_eq!(fixture.store_in("lists"), (None, false), "the folder is gone");
}

/// Sieve scripts, indexes and the like lie there, too.
#[test]
fn a_directory_that_is_no_folder_takes_no_mail() {
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.target().inbox.join(".sieve/tmp")).unwrap();
    assert_eq!(fixture.store_in("sieve"), (None, false));
}

#[test]
fn nobody_else_may_read() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new();
    fixture.draft().publish().unwrap();
    let maildir = fixture.target().inbox;
    for (path, mode) in [("", 0o700), ("new", 0o700), ("cur", 0o700), ("new/1.X_0_0.p,S=20", 0o600)]
    {
        let found = fs::metadata(maildir.join(path)).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode, "{path}");
    }
}

/// A kill after each step, then the same job again: the message is there once.
#[test]
fn killed_between_any_two_steps() {
    type Step = fn(&Fixture);
    let steps: [(&str, Step); 4] = [
        ("made the directories", |f| f.store.prepare(&f.target().inbox, now()).unwrap()),
        ("wrote a part", |f| {
            let mut draft = f.store.create(&f.target(), &f.target().inbox).unwrap();
            draft.write(b"Sub").unwrap();
            draft.is_published = true; // a killed process removes nothing
        }),
        ("wrote all", |f| f.draft().is_published = true),
        ("renamed", |f| f.draft().publish().unwrap()),
    ];
    for (done, step) in steps {
        let mut fixture = Fixture::new();
        fixture.store.prepare(&fixture.target().inbox, now()).unwrap();
        step(&fixture);
        fixture.restart();
        if let Begun::Writing(draft) = fixture.begin(Search::Everywhere).unwrap() {
            draft.publish().unwrap();
        }
        assert_eq!(fixture.names("new"), ["1.X_0_0.p,S=20"], "{done}");
        assert!(fixture.is_stored(Search::New), "{done}");
    }
}

#[test]
fn found_again_when_it_was_read() {
    let fixture = Fixture::new();
    fixture.draft().publish().unwrap();
    let maildir = fixture.target().inbox;
    for name in ["1.X_0_0.p,S=20:2,S", "1.X_0_0.p,S=20:2,", "1.X_0_0.p,S=20,W=20:2,RS", "1.X_0_0.p"]
    {
        let from = maildir.join("new/1.X_0_0.p,S=20");
        fs::rename(&from, maildir.join("cur").join(name)).unwrap();
        assert!(fixture.is_stored(Search::Everywhere), "{name}");
        assert!(!fixture.is_stored(Search::New), "{name}");
        fs::rename(maildir.join("cur").join(name), &from).unwrap();
    }
    fs::rename(maildir.join("new/1.X_0_0.p,S=20"), maildir.join("cur/1.X_0_0.px,S=20")).unwrap();
    assert!(!fixture.is_stored(Search::Everywhere), "another message");
}

#[test]
fn a_draft_that_is_dropped_leaves_nothing() {
    let fixture = Fixture::new();
    drop(fixture.draft());
    assert!(fixture.names("tmp").is_empty());
    assert!(fixture.names("new").is_empty());
}

#[test]
fn two_attempts_at_once_store_one() {
    let fixture = Fixture::new();
    let (first, second) = (fixture.draft(), fixture.draft());
    first.publish().unwrap();
    second.publish().unwrap();
    assert_eq!(fixture.names("new"), ["1.X_0_0.p,S=20"]);
    assert!(fixture.names("tmp").is_empty());
}

#[test]
fn a_maildir_that_was_removed_is_made_again() {
    let fixture = Fixture::new();
    fixture.draft().publish().unwrap();
    fs::remove_dir_all(fixture.target().inbox).unwrap();
    fixture.draft().publish().unwrap();
    assert_eq!(fixture.names("new").len(), 1);
}

/// Dovecot's and Courier's count of a mailbox stays right, and we begin none.
#[test]
fn a_readers_count_goes_on() {
    let fixture = Fixture::new();
    fixture.draft().publish().unwrap();
    let file = fixture.target().inbox.join("maildirsize");
    assert!(!file.exists());
    fs::write(&file, "1000000S\n20 1\n").unwrap();
    fs::remove_file(fixture.target().inbox.join("new/1.X_0_0.p,S=20")).unwrap();
    fixture.draft().publish().unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "1000000S\n20 1\n20 1\n");
    assert!(fixture.is_stored(Search::New));
    assert_eq!(fs::read_to_string(&file).unwrap(), "1000000S\n20 1\n20 1\n", "stored once");
}

#[test]
fn leftovers_go_after_their_time() {
    let mut fixture = Fixture::new();
    let maildir = fixture.target().inbox;
    fixture.store.prepare(&maildir, now()).unwrap();
    for (name, hours) in [("old", 37), ("fresh", 35)] {
        let file = File::create(maildir.join("tmp").join(name)).unwrap();
        let age = Duration::from_secs(hours * 3600);
        let ms = u64::try_from(now().unix_ms()).unwrap();
        let then = std::time::UNIX_EPOCH + Duration::from_millis(ms) - age;
        file.set_modified(then).unwrap();
    }
    fixture.restart();
    fixture.store.prepare(&maildir, now()).unwrap();
    assert_eq!(fixture.names("tmp"), ["fresh"]);
}

#[test]
fn failures_tell_whether_room_is_lacking() {
    for (code, is_full) in [(28, true), (122, true), (5, false), (30, false), (13, false)] {
        let error = DiskError::at("write", Path::new("/m"))(io::Error::from_raw_os_error(code));
        assert_eq!(error.is_full(), is_full, "{error}");
    }
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.store.root().join("example.org")).unwrap();
    fs::write(fixture.target().inbox, "a file in its place").unwrap();
    let Err(error) = fixture.begin(Search::New) else { panic!("no error") };
    assert!(!error.is_full());
    assert!(error.to_string().starts_with("cannot make a Maildir in /"), "{error}");
}

#[test]
fn what_is_remembered_of_maildirs_is_bounded() {
    let fixture = Fixture::new();
    for n in 0..PREPARED_MAX + 10 {
        fixture.store.note_prepared(Path::new(&n.to_string()));
    }
    assert_eq!(fixture.store.prepared().len(), PREPARED_MAX);
}
