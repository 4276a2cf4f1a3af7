//! A file that takes another one's place, without a sync: after the daemon was killed it has the content of one of
//! both.

use std::fs;

use udax_test_posix::Daemon;

const FILES: usize = 20;

#[test]
fn a_file_without_dax_that_is_replaced_is_never_empty() {
    let Some(mut daemon) = Daemon::new("64M", &[], "dax=never,cache=16").unwrap() else {
        return;
    };
    let old = |at: usize| format!("old {at} ").repeat(2000);
    let new = |at: usize| format!("new {at} ").repeat(3000);
    let path = |daemon: &Daemon, at| daemon.path().join(format!("f{at}"));
    for at in 0..FILES {
        fs::write(path(&daemon, at), old(at)).unwrap();
        fs::File::open(path(&daemon, at)).unwrap().sync_all().unwrap();
    }
    for at in 0..FILES {
        let temporary = daemon.path().join("temporary");
        fs::write(&temporary, new(at)).unwrap();
        fs::rename(&temporary, path(&daemon, at)).unwrap();
    }
    daemon.kill().unwrap();
    daemon.mount().unwrap();
    for at in 0..FILES {
        let found = fs::read_to_string(path(&daemon, at)).unwrap();
        assert!(
            found == old(at) || found == new(at),
            "f{at} has {} bytes",
            found.len()
        );
    }
    daemon.finish().unwrap();
}
