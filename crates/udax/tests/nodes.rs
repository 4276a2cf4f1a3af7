//! Inodes by number: that a number stays its inode's own while somebody knows it, and names in directories.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use udax::{
    Created, Error, FileKind, Filesystem, FormatOptions, MountOptions, NewInode, Node, OpenFlags, RenameMode,
};

fn new() -> NewInode {
    NewInode::with_permissions(0o644)
}

fn pool() -> (tempfile::TempDir, Filesystem) {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().join("pool");
    let options = FormatOptions {
        size: Some(32 << 20),
        ..FormatOptions::default()
    };
    Filesystem::format(&path, &options).unwrap();
    let filesystem = Filesystem::open(&path, &MountOptions::default()).unwrap();
    (directory, filesystem)
}

fn make(directory: &Node, name: &[u8]) -> Node {
    directory.make_node(name, FileKind::Regular, 0, new()).unwrap()
}

#[test]
fn a_number_that_is_known_goes_to_nobody_else() {
    let (_directory, filesystem) = pool();
    let root = filesystem.root().unwrap();
    let known = make(&root, b"known");
    let number = known.ino();
    root.unlink(b"known").unwrap();
    assert!(matches!(known.stat(), Err(Error::Stale(_))));
    assert!(matches!(filesystem.node(number), Err(Error::Stale(_))));
    // More than there are free numbers.
    for at in 0..400 {
        let name = format!("other{at}");
        assert_ne!(make(&root, name.as_bytes()).ino(), number);
    }
    let second = root.lookup(b"other3").unwrap();
    let also = filesystem.node(second.ino()).unwrap();
    root.unlink(b"other3").unwrap();
    drop(known);
    drop(second);
    let later: Vec<Node> = (0..400)
        .map(|at| make(&root, format!("later{at}").as_bytes()))
        .collect();
    assert!(
        later.iter().any(|node| node.ino() == number),
        "given back by its last holder"
    );
    assert!(
        later.iter().all(|node| node.ino() != also.ino()),
        "another holder is left"
    );
    drop(later);
    drop(also);
    drop(root);
    filesystem.close().unwrap();
}

#[test]
fn a_known_file_that_is_open_without_a_name_is_there_until_it_is_closed() {
    let (_directory, filesystem) = pool();
    let root = filesystem.root().unwrap();
    let flags = OpenFlags::READ | OpenFlags::WRITE;
    let Created { node, file, is_new } = root.create_file(b"f", flags, new()).unwrap();
    assert!(is_new);
    root.unlink(b"f").unwrap();
    file.write_at(b"content", 0).unwrap();
    assert_eq!((node.stat().unwrap().nlink, node.stat().unwrap().size), (0, 7));
    assert!(matches!(root.link(&node, b"again"), Err(Error::NotFound)));
    drop(file);
    assert!(matches!(node.open(OpenFlags::READ), Err(Error::Stale(_))));
}

#[test]
fn files_are_made_once() {
    let (_directory, filesystem) = pool();
    let root = filesystem.root().unwrap();
    let flags = OpenFlags::READ | OpenFlags::WRITE;
    let first = root.create_file(b"f", flags, new()).unwrap();
    let second = root.create_file(b"f", flags, new()).unwrap();
    assert!(first.is_new && !second.is_new);
    assert_eq!(first.node.ino(), second.node.ino());
    let exclusive = root.create_file(b"f", flags | OpenFlags::EXCLUSIVE, new());
    assert!(matches!(exclusive, Err(Error::Exists)));
    root.create_dir(b"d", new()).unwrap();
    assert!(matches!(
        root.create_file(b"d", flags, new()),
        Err(Error::IsDirectory)
    ));
    root.symlink(b"l", b"f", new()).unwrap();
    assert!(matches!(
        root.create_file(b"l", flags, new()),
        Err(Error::SymlinkLoop)
    ));
}

#[test]
fn names_are_moved_between_directories() {
    let (_directory, filesystem) = pool();
    let root = filesystem.root().unwrap();
    let a = root.create_dir(b"a", new()).unwrap();
    let b = a.create_dir(b"b", new()).unwrap();
    assert_eq!(b.parent().unwrap().ino(), a.ino());
    assert_eq!(root.parent().unwrap().ino(), root.ino());
    let file = make(&b, b"f");
    b.rename(b"f", &root, b"g", RenameMode::Replace).unwrap();
    assert_eq!(root.lookup(b"g").unwrap().ino(), file.ino());
    assert!(matches!(b.lookup(b"f"), Err(Error::NotFound)));
    let below = root.rename(b"a", &b, b"c", RenameMode::Replace);
    assert!(matches!(below, Err(Error::Invalid(_))));
    a.remove_dir(b"b").unwrap();
    // The directory is gone: nothing can be done in it, whatever the caller knows.
    assert!(matches!(b.lookup(b"x"), Err(Error::NotFound)));
    assert!(matches!(b.create_dir(b"x", new()), Err(Error::NotFound)));
    assert!(matches!(b.link(&file, b"x"), Err(Error::NotFound)));
    let into = root.rename(b"g", &b, b"x", RenameMode::Replace);
    assert!(matches!(into, Err(Error::NotFound)));
    assert!(matches!(b.unlink(b"x"), Err(Error::NotFound)));
    assert_eq!(filesystem.stat("/g").unwrap().ino, file.ino());
}

#[test]
fn what_is_no_name_of_one_component_is_refused() {
    let (_directory, filesystem) = pool();
    let root = filesystem.root().unwrap();
    for name in [&b"a/b"[..], b".", b"..", b"a\0b"] {
        assert!(
            matches!(root.create_dir(name, new()), Err(Error::Invalid(_))),
            "{name:?}"
        );
        assert!(matches!(root.lookup(name), Err(Error::Invalid(_))), "{name:?}");
    }
    assert!(matches!(root.lookup(b""), Err(Error::NotFound)));
    assert!(matches!(
        root.lookup(&[b'x'; 256]),
        Err(Error::NameTooLong { .. })
    ));
    let file = make(&root, b"file");
    assert!(matches!(file.lookup(b"x"), Err(Error::NotDirectory)));
    assert!(matches!(file.create_dir(b"x", new()), Err(Error::NotDirectory)));
    assert!(matches!(
        root.rename(b"file", &file, b"x", RenameMode::Replace),
        Err(Error::NotDirectory)
    ));
}
