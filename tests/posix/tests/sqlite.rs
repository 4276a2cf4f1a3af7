//! sqlite3 on a mount: transactions that it has reported as committed are there after the daemon was killed in the
//! midst of others, with rollback journals and with a write-ahead log, whose index is a file that is mapped and
//! shared.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use udax_sync::thread;
use udax_test_posix::bounded::succeed;
use udax_test_posix::{Daemon, installed, is_long};

const LIMIT: Duration = Duration::from_secs(60);
/// How long the next commit may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Transactions that one client is given; it is killed long before the last.
const TRANSACTIONS: u64 = 100_000;
/// Rows of a transaction.
const ROWS: u64 = 3;

/// A database on the mount, and how it is opened.
struct Database {
    program: PathBuf,
    file: PathBuf,
    pragmas: String,
}

impl Database {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["-batch", "-bail", "-cmd", ".timeout 10000"])
            .arg(&self.file);
        command
    }

    /// What `query` gives.
    #[track_caller]
    fn ask(&self, query: &str) -> String {
        succeed(self.command().arg(query), LIMIT).unwrap()
    }

    /// Starts a client that commits transactions from number `first`, and tells the number of each that is committed.
    fn start(&self, first: u64) -> (Child, mpsc::Receiver<u64>) {
        let mut client = self
            .command()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = client.stdin.take().unwrap();
        let pragmas = self.pragmas.clone();
        // Both end when the client does.
        thread::spawn(move || {
            let mut give = || {
                writeln!(input, "{pragmas}")?;
                for number in first..first + TRANSACTIONS {
                    writeln!(input, "{}", transaction(number))?;
                }
                std::io::Result::Ok(())
            };
            let _ = give();
        });
        let output = client.stdout.take().unwrap();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Pragmas answer too.
                let number = line
                    .strip_prefix("committed ")
                    .and_then(|number| number.parse().ok());
                if number.is_some_and(|number| tell.send(number).is_err()) {
                    return;
                }
            }
        });
        (client, told)
    }
}

/// Rows whose content follows from their numbers, a row that is changed, and one that is removed.
fn transaction(number: u64) -> String {
    let rows: Vec<String> = (0..ROWS)
        .map(|row| {
            format!(
                "({number},{row},printf('%.{}c','{}'))",
                40 + number * 37 % 900,
                number % 10
            )
        })
        .collect();
    format!(
        "BEGIN; INSERT INTO rows VALUES {}; UPDATE last SET number={number}; \
         DELETE FROM scratch; INSERT INTO scratch VALUES({number}); COMMIT; SELECT 'committed {number}';",
        rows.join(",")
    )
}

/// Kills the daemon `kills` times in the midst of transactions; none that was told may be missing.
fn exercise(options: &str, format: &[&str], pragmas: &str, kills: u64) {
    let Some(program) = installed("sqlite3") else {
        return;
    };
    let kills = if is_long() { kills * 10 } else { kills };
    let Some(mut daemon) = Daemon::new("128M", format, options).unwrap() else {
        return;
    };
    let database = Database {
        program,
        file: daemon.path().join("database"),
        pragmas: pragmas.to_owned(),
    };
    database.ask(&format!(
        "{pragmas}; CREATE TABLE rows(number, row, text, PRIMARY KEY(number, row)); CREATE TABLE last(number); \
         CREATE TABLE scratch(number); INSERT INTO last VALUES(0);"
    ));
    let mut committed = 0;
    for kill in 0..kills {
        let (mut client, told) = database.start(committed + 1);
        // Each kill meets another moment.
        let wanted = committed + 5 + kill * 29 % 41;
        let mut seen = committed;
        while seen < wanted {
            seen = told.recv_timeout(PATIENCE).unwrap();
        }
        daemon.kill().unwrap();
        client.kill().unwrap();
        client.wait().unwrap();
        // What it told while the daemon was being killed counts too.
        seen = told.iter().max().unwrap_or(seen).max(seen);
        daemon.mount().unwrap();
        committed = verify(&database, seen);
    }
    assert!(committed >= kills * 5, "{committed} transactions");
    daemon.finish().unwrap();
}

/// Gives the number of the last transaction, which is `told`, or the one that was under way.
#[track_caller]
fn verify(database: &Database, told: u64) -> u64 {
    assert_eq!(database.ask("PRAGMA integrity_check;").trim(), "ok");
    let last: u64 = database.ask("SELECT number FROM last;").trim().parse().unwrap();
    assert!(
        last == told || last == told + 1,
        "{told} was told, {last} is there"
    );
    let wrong = database.ask(&format!(
        "SELECT count(*) FROM rows WHERE text <> printf('%.*c', 40 + number * 37 % 900, number % 10) OR number > {last};"
    ));
    assert_eq!(wrong.trim(), "0", "rows with wrong content");
    let rows: u64 = database.ask("SELECT count(*) FROM rows;").trim().parse().unwrap();
    assert_eq!(rows, last * ROWS);
    let scratch = database.ask("SELECT number FROM scratch;");
    assert_eq!(
        scratch.trim(),
        if last == 0 {
            String::new()
        } else {
            last.to_string()
        }
    );
    last
}

#[test]
fn a_rollback_journal_that_is_deleted() {
    exercise("", &[], "PRAGMA journal_mode=DELETE; PRAGMA synchronous=FULL;", 5);
}

#[test]
fn a_rollback_journal_that_is_never_synced() {
    // What `write` was told is durable: sqlite3 need not sync.
    exercise(
        "",
        &[],
        "PRAGMA journal_mode=TRUNCATE; PRAGMA synchronous=OFF;",
        5,
    );
}

#[test]
fn a_write_ahead_log() {
    exercise(
        "",
        &[],
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=20;",
        5,
    );
}

#[test]
fn a_database_that_is_mapped() {
    exercise(
        "",
        &["--data-checksum"],
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA mmap_size=100000000;",
        3,
    );
}

#[test]
fn a_database_without_dax() {
    for mode in ["PERSIST", "WAL"] {
        exercise(
            "dax=never,cache=4",
            &[],
            &format!("PRAGMA journal_mode={mode}; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=20;"),
            3,
        );
    }
}
