//! Each kind of violation, with valid checksums where that is possible: found, repaired, and gone after the repair.

use std::collections::BTreeMap;

use udax_check::{CheckOptions, Problem, Report, Silent, check, check_copies};
use udax_media::checkpoint::Checkpoint;
use udax_media::extent::{Extent, ExtentFlags};
use udax_media::geometry::{CHECKPOINTS, ROOTS, SUPERBLOCKS};
use udax_media::inode::{FileKind, InodeFlags};
use udax_media::node::TreeRoot;
use udax_media::{BlockNo, FileBlock, InodeNo, Sequence};
use udax_pmem::Region;

use crate::image::{Image, Owner, read_contents, read_paths, rich};
use crate::run;

/// Checks that `what` is found, changes nothing before it is repaired, is repaired, and is gone then.
fn mended(region: &Region, what: &str) -> Report {
    let len = usize::try_from(region.len()).unwrap();
    let mut before = vec![0; len];
    region.read(0, &mut before).unwrap();
    let found = run(region, false);
    assert!(
        found.problems.iter().any(|problem| problem.what.contains(what)),
        "{what}: {found:#?}"
    );
    assert!(found.problems.iter().all(|problem| problem.repair.is_none()));
    assert_eq!(found.exit_code(), 4);
    let mut after = vec![0; len];
    region.read(0, &mut after).unwrap();
    assert!(before == after, "a check changed the pool");
    let report = run(region, true);
    assert_eq!(report.exit_code(), 1, "{report:#?}");
    assert!(
        report.problems.iter().any(|problem| problem.what.contains(what)),
        "{what}: {report:#?}"
    );
    let again = run(region, false);
    assert_eq!(again.problems, [], "after the repair of {report:#?}");
    assert!(again.was_clean);
    report
}

fn flip(region: &Region, at: u64) {
    let mut byte = [0];
    region.read(at, &mut byte).unwrap();
    region.store(at, &[byte[0] ^ 0x10]).unwrap();
}

fn two_files() -> (Image, u64, u64) {
    let mut image = Image::new(4096);
    let directory = image.mkdir(1, "dir");
    let first = image.file(directory, "first", &[(0, 4)]);
    let second = image.file(directory, "second", &[(0, 4)]);
    (image, first, second)
}

#[test]
fn link_counts() {
    let (mut image, first, second) = two_files();
    image.inode(first).nlink = 3;
    image.inode(2).nlink = 7;
    image.inode(second).nlink = 0;
    let report = mended(&image.write(), "link count 3, but 1 names");
    assert_eq!(report.problems.len(), 3);
}

#[test]
fn directory_size_parent_and_blocks() {
    let (mut image, first, _) = two_files();
    image.inode(2).size = 9;
    image.inode(2).parent = InodeNo(2);
    image.extra_blocks.insert(first, 5);
    let region = image.write();
    mended(&region, "parent is 2, but the directory is in 1");
    let (mut image, ..) = two_files();
    image.inode(2).size = 9;
    mended(&image.write(), "directory of 2 names has size 9");
    let (mut image, first, _) = two_files();
    image.extra_blocks.insert(first, 5);
    mended(&image.write(), "9 blocks recorded, 4 owned");
    let (mut image, ..) = two_files();
    image.inode(1).parent = InodeNo(2);
    mended(&image.write(), "parent of the root directory is 2");
}

#[test]
fn name_that_names_nothing() {
    let (mut image, first, _) = two_files();
    image.inodes.remove(&first);
    let report = mended(&image.write(), "\"first\" names inode 3, which is not in use");
    assert!(report.problems.iter().any(|problem| problem.lost.is_some()));
}

#[test]
fn unnamed_inodes_get_names_in_lost_and_found() {
    let mut image = rich(4096);
    let directory = image.mkdir(1, "gone");
    let file = image.file(directory, "inside", &[(0, 2)]);
    image
        .names
        .get_mut(&1)
        .unwrap()
        .retain(|_, (name, ..)| name != b"gone");
    image.inode(1).size -= 1;
    image.inode(1).nlink -= 1;
    let lonely = image.unnamed(&[(0, 1)]);
    image.inode(lonely).nlink = 1;
    let region = image.write();
    mended(&region, &format!("directory {directory} is in no directory"));
    let paths = read_paths(&region, &image.superblock);
    assert_eq!(paths[&format!("/lost+found/#{directory}/inside")], file);
    assert_eq!(paths[&format!("/lost+found/#{lonely}")], lonely);
}

#[test]
fn lost_and_found_is_used_when_there_and_evaded_when_a_file() {
    let mut image = Image::new(4096);
    let existing = image.mkdir(1, "lost+found");
    let lonely = image.unnamed(&[(0, 1)]);
    image.inode(lonely).nlink = 1;
    image.file(existing, &format!("#{lonely}"), &[]);
    let region = image.write();
    mended(&region, "but no name");
    assert_eq!(
        read_paths(&region, &image.superblock)[&format!("/lost+found/#{lonely}.1")],
        lonely
    );

    let mut image = Image::new(4096);
    image.file(1, "lost+found", &[]);
    let lonely = image.unnamed(&[(0, 1)]);
    image.inode(lonely).nlink = 1;
    let region = image.write();
    mended(&region, "but no name");
    assert_eq!(
        read_paths(&region, &image.superblock)[&format!("/lost+found.1/#{lonely}")],
        lonely
    );
}

#[test]
fn lost_and_found_gets_a_chunk_when_no_inode_is_free() {
    let mut image = Image::new(4096);
    for index in 0..13 {
        image.file(1, &format!("{index}"), &[]);
    }
    let lonely = image.unnamed(&[(0, 1)]);
    assert_eq!(lonely, 15);
    image.inode(lonely).nlink = 1;
    let region = image.write();
    mended(&region, "but no name");
    let paths = read_paths(&region, &image.superblock);
    assert_eq!((paths["/lost+found"], paths["/lost+found/#15"]), (16, 15));
}

#[test]
fn circle_of_directories() {
    let mut image = Image::new(4096);
    let top = image.mkdir(1, "top");
    let low = image.mkdir(top, "low");
    let file = image.file(low, "file", &[(0, 1)]);
    let names = image.names.get_mut(&1).unwrap();
    names.clear();
    image.inode(1).size = 0;
    image.inode(1).nlink = 2;
    image.link(low, "up", top);
    let region = image.write();
    mended(&region, "is its own ancestor");
    let paths = read_paths(&region, &image.superblock);
    assert_eq!(paths[&format!("/lost+found/#{top}/low/file")], file);
}

#[test]
fn second_names_of_a_directory() {
    let mut image = Image::new(4096);
    let first = image.mkdir(1, "first");
    let second = image.mkdir(1, "second");
    image.link(second, "again", first);
    image.inode(first).parent = InodeNo(1);
    image.link(1, "twice", second);
    image.link(second, "root", 1);
    image.inode(1).parent = InodeNo(1);
    let region = image.write();
    let report = mended(&region, "second name of directory");
    assert!(
        report
            .problems
            .iter()
            .any(|problem| problem.what.contains("names the root directory"))
    );
    assert_eq!(read_paths(&region, &image.superblock).len(), 2);
}

#[test]
fn name_at_a_foreign_key_moves() {
    let (mut image, first, _) = two_files();
    let names = image.names.get_mut(&2).unwrap();
    let key = *names.iter().find(|(_, (name, ..))| name == b"first").unwrap().0;
    let entry = names.remove(&key).unwrap();
    names.insert(1 << 62, entry);
    let region = image.write();
    mended(&region, "not one of its hash");
    assert_eq!(read_paths(&region, &image.superblock)["/dir/first"], first);
    let report = run(&region, false);
    assert_eq!(report.problems, []);
}

#[test]
fn name_twice_and_kind_wrong() {
    let (mut image, first, second) = two_files();
    let key = image.free_key(2, b"first");
    image
        .names
        .get_mut(&2)
        .unwrap()
        .insert(key, (b"first".to_vec(), second, FileKind::Regular));
    image.inode(2).size += 1;
    image.inode(second).nlink += 1;
    let region = image.write();
    mended(&region, "is in the directory twice");
    assert_eq!(read_paths(&region, &image.superblock)["/dir/first"], first);

    let (mut image, ..) = two_files();
    let names = image.names.get_mut(&2).unwrap();
    names.values_mut().next().unwrap().2 = FileKind::Socket;
    mended(&image.write(), "says inode");
}

#[test]
fn names_that_are_none() {
    for bad in [&b""[..], b"a/b", b"..", b"nul\0"] {
        let (mut image, first, _) = two_files();
        let names = image.names.get_mut(&2).unwrap();
        names.values_mut().find(|(_, ino, _)| *ino == first).unwrap().0 = bad.to_vec();
        let region = image.write();
        mended(&region, "is no entry");
        assert_eq!(
            read_paths(&region, &image.superblock)[&format!("/lost+found/#{first}")],
            first
        );
    }
}

#[test]
fn blocks_owned_twice_stay_with_the_file_that_changed_last() {
    let (mut image, first, second) = two_files();
    let taken = image.extents[&first][0];
    image.extents.get_mut(&second).unwrap().push(Extent {
        first: FileBlock(10),
        start: BlockNo(taken.start.raw() + 1),
        count: 2,
        flags: ExtentFlags::empty(),
    });
    let region = image.write();
    let before = read_contents(&region, &image.superblock);
    let report = mended(
        &region,
        "are owned by the data of inode 3 and by the data of inode 4",
    );
    assert!(report.problems.iter().any(|problem| problem.lost.is_some()));
    let after = read_contents(&region, &image.superblock);
    assert_eq!(after[&second], before[&second]);
    let kept: Vec<u64> = after[&first].blocks.keys().copied().collect();
    assert_eq!(kept, [0, 3]);
}

#[test]
fn an_extent_with_checksums_in_a_pool_without_becomes_an_ordinary_one() {
    let (mut image, first, _) = two_files();
    image.extents.get_mut(&first).unwrap()[0].flags = ExtentFlags::SUMMED;
    let region = image.write();
    mended(&region, "has checksums, and the pool has none");
    let after = read_contents(&region, &image.superblock);
    image.extents.get_mut(&first).unwrap()[0].flags = ExtentFlags::empty();
    assert_eq!(after, read_contents(&image.write(), &image.superblock));
}

#[test]
fn blocks_owned_twice_by_one_file_stay_once() {
    let (mut image, first, _) = two_files();
    let mut extent = image.extents[&first][0];
    extent.first = FileBlock(50);
    image.extents.get_mut(&first).unwrap().push(extent);
    let region = image.write();
    mended(
        &region,
        "are owned by the data of inode 3 and by the data of inode 3",
    );
    assert_eq!(read_contents(&region, &image.superblock)[&first].blocks.len(), 4);
}

#[test]
fn data_on_the_pools_own_blocks_and_on_trees_is_cut() {
    let (mut image, first, second) = two_files();
    for (ino, start) in [(first, 1), (second, 8)] {
        image.extents.get_mut(&ino).unwrap()[0].start = BlockNo(start);
    }
    let region = image.write();
    mended(&region, "and by the pool itself");

    let mut image = rich(4096);
    let victim = image.file(1, "victim", &[(0, 1)]);
    let mut sizing = rich(4096);
    sizing.file(1, "victim", &[(0, 1)]);
    sizing.write();
    for (block, owner) in &sizing.metadata {
        if *owner == Owner::Pool && (block.raw() < 512) {
            continue;
        }
        let mut image = rich(4096);
        image.file(1, "victim", &[(0, 1)]);
        image.extents.get_mut(&victim).unwrap()[0].start = *block;
        let region = image.write();
        // What the file's data is stored over comes after it: the builder writes trees last.
        let report = run(&region, true);
        assert_eq!(report.exit_code(), 1, "{block:?} {owner:?}: {report:#?}");
        assert_eq!(run(&region, false).problems, []);
    }
    image.write();
}

#[test]
fn share_counts() {
    let share = |image: &mut Image, first, second, flags| {
        let extents = image.extents.get_mut(&first).unwrap();
        extents[0].flags = flags;
        let extent = extents[0];
        image.extents.insert(second, vec![extent]);
        image
            .used
            .retain(|block| *block < extent.start.raw() + 4 || *block >= extent.start.raw() + 8);
        extent
    };
    let (mut image, first, second) = two_files();
    let extent = share(&mut image, first, second, ExtentFlags::SHARED);
    let region = image.write();
    let before = read_contents(&region, &image.superblock);
    mended(&region, "share counts do not agree");
    assert_eq!(
        read_contents(&region, &image.superblock),
        before,
        "{extent:?} stays shared"
    );

    let (mut image, first, second) = two_files();
    let extent = share(&mut image, first, second, ExtentFlags::SHARED);
    image.shared.insert(extent.start.raw(), (4, 3));
    mended(&image.write(), "share counts do not agree");

    let (mut image, first, _) = two_files();
    let extent = image.extents[&first][0];
    image.shared.insert(extent.start.raw(), (4, 2));
    mended(&image.write(), "share counts do not agree");

    let (mut image, ..) = two_files();
    image.shared.insert(4000, (400, 2));
    mended(&image.write(), "impossible share count");
}

#[test]
fn extents_that_overlap_in_the_file() {
    let (mut image, first, _) = two_files();
    let runs: Vec<_> = (0..8).map(|index| (100 + index * 10, 2)).collect();
    let other = image.unnamed(&runs);
    let mut extents = image.extents[&other].clone();
    extents[3].first = FileBlock(extents[2].first.raw() + 1);
    image.extents.insert(first, extents);
    image.extents.remove(&other);
    image.inodes.remove(&other);
    let region = image.write();
    mended(&region, "overlaps the one before it");
    assert_eq!(read_contents(&region, &image.superblock)[&first].blocks.len(), 14);
}

#[test]
fn orphans() {
    let (mut image, first, _) = two_files();
    image.orphan(77);
    image.orphan(1);
    image.orphan(first);
    let open = image.unnamed(&[(0, 1)]);
    let region = image.write();
    mended(&region, "is in the orphans' tree, but not in use");
    let report = run(&region, false);
    assert_eq!(report.inodes, 5, "inode {open} is left to the next mount");
}

#[test]
fn removed_directory_is_no_problem_unless_it_has_names() {
    let mut image = Image::new(4096);
    let removed = image.mkdir(1, "removed");
    image.names.get_mut(&1).unwrap().clear();
    image.inode(1).size = 0;
    image.inode(1).nlink = 2;
    image.inode(removed).nlink = 0;
    image.orphan(removed);
    assert_eq!(run(&image.write(), false).problems, []);
    let inside = image.file(removed, "inside", &[]);
    let region = image.write();
    mended(&region, "is in no directory");
    assert_eq!(
        read_paths(&region, &image.superblock)[&format!("/lost+found/#{removed}/inside")],
        inside
    );
}

#[test]
fn symbolic_links() {
    let mut image = Image::new(4096);
    let short = image.symlink(1, "short", b"target");
    let long = image.symlink(1, "long", &[b'x'; 200]);
    image.file(1, "file", &[]);
    image.inode(short).target_checksum ^= 1;
    let block = image.extents[&long][0].start;
    let region = image.write();
    flip(&region, block.offset().raw() + 5);
    let report = mended(&region, "link target's checksum");
    let lost: Vec<_> = report
        .problems
        .iter()
        .filter_map(|problem| problem.lost.as_deref())
        .collect();
    assert!(
        lost.contains(&format!("link target of inode {long}").as_str()),
        "{lost:?}"
    );
    assert_eq!(read_paths(&region, &image.superblock).len(), 1);
}

#[test]
fn extended_attributes() {
    let (mut image, first, second) = two_files();
    image.xattr(first, "user.good", b"1");
    image.xattr(first, "nonsense.name", b"2");
    let key = image.xattr(first, "user.moved", b"3");
    let entry = image.xattrs.get_mut(&first).unwrap().remove(&key).unwrap();
    image
        .xattrs
        .get_mut(&first)
        .unwrap()
        .insert(key ^ (1 << 40), entry);
    image.xattrs.get_mut(&first).unwrap().insert(5, vec![1, 2, 3]);
    image.xattr(second, "user.large", &[1; 5000]);
    let region = image.write();
    let (value, _) = image
        .metadata
        .iter()
        .find(|(_, owner)| *owner == Owner::Inode(second))
        .unwrap();
    flip(&region, value.offset().raw());
    let report = mended(&region, "is in no name space");
    assert!(
        report
            .problems
            .iter()
            .any(|problem| problem.what.contains("value of attribute"))
    );
    let after = read_contents(&region, &image.superblock);
    let expected = BTreeMap::from([(b"user.good".to_vec(), b"1".to_vec())]);
    assert_eq!(
        (&after[&first].xattrs, after[&second].xattrs.len()),
        (&expected, 0)
    );
}

#[test]
fn free_map_and_counters() {
    let (mut image, first, _) = two_files();
    image.allocate(7);
    mended(&image.write(), "7 blocks are in use, but have no owner");

    let block = image.extents[&first][0].start.raw();
    let (mut image, ..) = two_files();
    image.used.remove(&block);
    mended(&image.write(), "1 owned blocks are marked free");

    let (mut image, ..) = two_files();
    image.counters = Some((1, 2));
    let report = mended(&image.write(), "1 free blocks recorded");
    assert_eq!(report.problems.len(), 2);
}

#[test]
fn damaged_copies_are_told_without_a_scan() {
    let (mut image, ..) = two_files();
    assert_eq!(check_copies(&image.write()).unwrap(), []);
    for at in [SUPERBLOCKS[0], SUPERBLOCKS[1], CHECKPOINTS[0], CHECKPOINTS[1]] {
        let region = image.write();
        flip(&region, at.offset().raw() + 20);
        let problems = check_copies(&region).unwrap();
        assert_eq!(problems.len(), 1, "{at}: {problems:?}");
    }
    let region = image.write();
    flip(&region, SUPERBLOCKS[0].offset().raw() + 20);
    flip(&region, SUPERBLOCKS[1].offset().raw() + 20);
    assert!(check_copies(&region).is_err());
}

#[test]
fn problems_have_the_paths_of_their_inodes() {
    let (mut image, first, _) = two_files();
    image.inode(first).nlink = 3;
    image.inode(2).nlink = 7;
    let lonely = image.unnamed(&[(0, 1)]);
    image.inode(lonely).nlink = 1;
    let report = run(&image.write(), false);
    let path = |ino: u64| {
        let of_inode = |problem: &&Problem| problem.inode == Some(InodeNo(ino));
        let problem = report.problems.iter().find(of_inode).unwrap();
        problem.path.clone().map(|path| String::from_utf8(path).unwrap())
    };
    assert_eq!(path(2).unwrap(), "/dir");
    assert_eq!(path(first).unwrap(), "/dir/first");
    assert_eq!(path(lonely), None);
}

#[test]
fn superblocks_and_checkpoints() {
    for copy in [0, 1] {
        let (mut image, ..) = two_files();
        let region = image.write();
        flip(&region, SUPERBLOCKS[copy].offset().raw() + 100);
        mended(&region, "superblock");
        let region = image.write();
        let mut older = image.superblock.clone();
        older.generation = 0;
        region
            .store(SUPERBLOCKS[copy].offset().raw(), older.encode().as_slice())
            .unwrap();
        mended(&region, "superblock of generation 0 beside one of generation 1");
        for slot in [0, 64] {
            let region = image.write();
            flip(&region, CHECKPOINTS[copy].offset().raw() + slot + 20);
            // A crash while it was published may have left the same.
            let found = run(&region, false);
            assert!(found.notes[0].what.contains("checkpoint"), "{found:#?}");
            assert!(run(&region, true).notes[0].repair.is_some());
            let again = run(&region, false);
            assert!(again.notes.is_empty() && again.problems.is_empty(), "{again:#?}");
        }
    }
    let (mut image, ..) = two_files();
    let region = image.write();
    region.zero(CHECKPOINTS[0].offset().raw(), 4096).unwrap();
    region.zero(CHECKPOINTS[1].offset().raw(), 4096).unwrap();
    mended(&region, "no checkpoint can be believed");
}

#[test]
fn lost_roots_and_inode_table_are_found_again() {
    let mut image = rich(4096);
    let region = image.write();
    let (contents, paths) = (
        read_contents(&region, &image.superblock),
        read_paths(&region, &image.superblock),
    );
    region.zero(ROOTS.offset().raw(), 4096).unwrap();
    mended(&region, "roots block");
    assert_eq!(read_contents(&region, &image.superblock), contents);
    assert_eq!(read_paths(&region, &image.superblock), paths);
}

#[test]
fn lost_root_directory_keeps_its_names() {
    let mut image = rich(4096);
    image.fanout = 1000;
    let region = image.write();
    let paths = read_paths(&region, &image.superblock);
    let (chunk, _) = image
        .metadata
        .iter()
        .find(|(_, owner)| *owner == Owner::Chunk(0))
        .unwrap();
    region.zero(chunk.offset().raw() + 256, 256).unwrap();
    mended(&region, "there is no root directory");
    assert_eq!(read_paths(&region, &image.superblock), paths);
}

#[test]
fn lost_chunk_leaves_names_of_the_rest() {
    let mut image = Image::new(4096);
    for index in 0..40 {
        image.file(1, &format!("{index}"), &[(0, 1)]);
    }
    let region = image.write();
    let contents = read_contents(&region, &image.superblock);
    let (chunk, _) = image
        .metadata
        .iter()
        .find(|(_, owner)| *owner == Owner::Chunk(1))
        .unwrap();
    region.store(chunk.offset().raw(), &[0xa5; 4096]).unwrap();
    mended(&region, "inode chunk 1 is unreadable");
    let left = read_contents(&region, &image.superblock);
    assert_eq!(left.len(), 40 - 16);
    assert!(left.iter().all(|(ino, content)| contents[ino] == *content));
    let (chunk, _) = image
        .metadata
        .iter()
        .find(|(_, owner)| *owner == Owner::Chunk(0))
        .unwrap();
    region.store(chunk.offset().raw(), &[0xa5; 4096]).unwrap();
    mended(&region, "inode chunk 0 is unreadable");
}

#[test]
fn roots_that_make_circles_do_not_hang() {
    let mut image = Image::new(4096);
    let runs: Vec<_> = (0..20).map(|index| (index * 2, 1)).collect();
    let file = image.file(1, "file", &runs);
    image.fanout = 3;
    let region = image.write();
    let root = image.inodes[&file].root;
    // The second child of the root node becomes the first one again.
    let at = root.block().unwrap().offset().raw();
    let mut node = [0; 4096];
    region.read(at, &mut node).unwrap();
    let first: [u8; 8] = node[72..80].try_into().unwrap();
    node[88..96].copy_from_slice(&first);
    udax_media::seal::seal(image.superblock.seed(), &mut node);
    region.store(at, &node).unwrap();
    let report = mended(&region, "already has elsewhere");
    assert!(report.problems.iter().any(|problem| problem.lost.is_some()));
    assert!(root.level() > 1);
}

#[test]
fn inode_with_impossible_fields_is_cleared() {
    let (mut image, first, _) = two_files();
    image.inode(first).root = TreeRoot::from_word(1 << 20);
    image.inode(first).flags = InodeFlags::EXTENT_TREE;
    mended(&image.write(), "tree root");
}

#[test]
fn a_block_listed_as_bad_that_a_file_owns_is_taken_off_the_list() {
    let (mut image, first, _) = two_files();
    let own = image.extents[&first][0].start.raw();
    let free = image.allocate(5).raw();
    image.bad_blocks = BTreeMap::from([(own, 1), (free, 5)]);
    let region = image.write();
    let report = mended(&region, "a block listed as bad have an owner");
    assert_eq!(report.bad_blocks, 5);
    assert_eq!(run(&region, false).bad_blocks, 5);
}

#[test]
fn runs_of_bad_blocks_that_cannot_be_are_dropped() {
    let mut image = rich(4096);
    let free = image.allocate(5).raw();
    image.bad_blocks = BTreeMap::from([(free, 4), (free + 2, 3), (4095, 2), (u64::MAX, 1)]);
    let report = mended(&image.write(), "impossible run of bad blocks");
    assert_eq!(report.bad_blocks, 4);
}

#[test]
fn a_damaged_list_of_bad_blocks_is_built_anew_from_what_is_left() {
    let mut image = rich(4096);
    image.fanout = 3;
    image.bad_blocks = (0..12).map(|_| (image.allocate(2).raw(), 1)).collect();
    let region = image.write();
    let leaves: Vec<BlockNo> = image.metadata.iter().map(|(block, _)| *block).collect();
    let is_leaf_of_list = |block: &&BlockNo| {
        let mut bytes = [0; 40];
        region.read(block.offset().raw(), &mut bytes).unwrap();
        (bytes[32], bytes[33]) == (0, 7) && bytes.starts_with(b"uNOD")
    };
    let lists: Vec<_> = leaves.iter().filter(is_leaf_of_list).collect();
    assert_eq!(lists.len(), 4);
    flip(&region, lists[1].offset().raw() + 100);
    let report = mended(&region, "list of bad blocks");
    assert_eq!(report.bad_blocks, 9);
}

#[test]
fn a_lost_roots_block_keeps_the_list_of_bad_blocks() {
    let mut image = rich(4096);
    let free = image.allocate(5).raw();
    image.bad_blocks = BTreeMap::from([(free, 5)]);
    let region = image.write();
    flip(&region, ROOTS.offset().raw() + 4);
    assert_eq!(mended(&region, "roots block").bad_blocks, 5);
}

#[test]
fn a_journal_that_the_medium_has_lost_is_emptied() {
    let mut image = rich(4096);
    let region = image.write();
    // As a mount that was killed leaves it.
    let open = Checkpoint {
        number: 6,
        sequence: Sequence(40),
        nonce: 77,
        free_blocks: 0,
        inodes: 0,
        is_clean: false,
        is_half_mended: false,
    };
    for copy in CHECKPOINTS {
        let slot = open.encode(image.superblock.seed());
        region.store(open.offset_in(copy).raw(), &slot).unwrap();
    }
    let lane = image.superblock.lane(1).start.offset().raw();
    region.poison(lane, 1).unwrap();
    let found = run(&region, false);
    assert!(
        found
            .problems
            .iter()
            .any(|problem| problem.what.contains("journal: media error")),
        "{found:#?}"
    );
    let options = CheckOptions {
        repair: true,
        bad_blocks: true,
        ..CheckOptions::default()
    };
    let report = check(&region, &options, &Silent).unwrap();
    assert_eq!(report.exit_code(), 1, "{report:#?}");
    assert_eq!(check(&region, &options, &Silent).unwrap().problems, []);
    assert_eq!(region.bad_ranges().len(), 0);
}
