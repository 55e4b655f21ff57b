//! The EROFS reader against images that `mkfs.erofs` makes of host trees, and against damaged
//! superblocks.

mod images;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use images::{Scratch, make_image, mixture, noise, small_tree, text};
use klib::erofs::{Erofs, ErofsError, FileKind, Inode};

/// A tree with all that is awkward: sizes around block borders, links, devices, long names, a large
/// directory. All tests share it, so it stays until the next run replaces it.
fn awkward_tree() -> &'static Path {
    static TREE: OnceLock<PathBuf> = OnceLock::new();
    TREE.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("awkward-tree");
        let _ = fs::remove_dir_all(&root);
        fill_awkward_tree(&root);
        root
    })
}

fn fill_awkward_tree(root: &Path) {
    small_tree(root);
    let write = |name: &str, data: &[u8]| fs::write(root.join(name), data).expect("write a test file");
    write("text-large", &text(3_000_000));
    write("noise-large", &noise(500_000, 3));
    write("mixture-large", &mixture(1_500_001));
    write("zeros-large", &vec![0; 5_000_000]);
    // mkfs.erofs 1.5 fails on names of 255 bytes.
    write(&"n".repeat(254), b"long name");
    write(&"\u{e9}".repeat(127), b"long name of two-byte letters");
    symlink("t".repeat(4000), root.join("longest-link")).expect("make a symbolic link");

    let sparse = File::create(root.join("sparse")).expect("create a file");
    sparse.set_len(24 << 20).expect("set a length");
    sparse.write_all_at(b"start", 0).expect("write");
    sparse.write_all_at(&text(10_000), 5_000_003).expect("write");
    sparse.write_all_at(b"end", (24 << 20) - 3).expect("write");

    fs::create_dir(root.join("many")).expect("create a folder");
    for index in 0..5000 {
        // Lengths and order vary, so that blocks break at all kinds of places.
        let name = format!("{:x}-{}", index * 7919 % 5003, "p".repeat(index % 40));
        write(&format!("many/{name}"), format!("{index}").as_bytes());
    }
    let _ = UnixListener::bind(root.join("socket"));
    Command::new("mkfifo").arg(root.join("pipe")).status().expect("start mkfifo");
    // Needs root; without it the tree has no device, and the comparison none to compare.
    let _ = Command::new("mknod").arg(root.join("device")).args(["c", "511", "70000"]).output();
}

/// All names of a directory with their inode numbers and kinds, read in pieces of three entries.
fn list(fs: &Erofs<'_>, dir: &Inode) -> Vec<(Vec<u8>, u64, FileKind)> {
    let mut all: Vec<(Vec<u8>, u64, FileKind)> = Vec::new();
    let mut cookie = 0;
    loop {
        let before = all.len();
        fs.read_dir(dir, cookie, &mut |entry| {
            all.push((entry.name.to_vec(), entry.nid, entry.kind));
            cookie = entry.next_cookie;
            all.len() < before + 3
        })
        .expect("list a directory");
        assert_eq!(cookie, all.len() as u64, "a cookie is the index of the next entry");
        if all.len() == before {
            return all;
        }
    }
}

/// What `compare` found, to check that a test covers what it means to.
#[derive(Default)]
struct Seen<'a> {
    image: &'a [u8],
    links: BTreeMap<(u64, u64), u64>,
    counts: Counts,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    files: u32,
    compressed: u32,
    mapped_pages: u64,
    last_pages_mapped: u32,
}

/// Compares a directory and everything below it with the host's.
fn compare(fs: &Erofs<'_>, dir: &Inode, host: &Path, seen: &mut Seen<'_>) {
    let listed = list(fs, dir);
    let names: Vec<&[u8]> = listed.iter().map(|(name, ..)| name.as_slice()).collect();
    assert!(names.is_sorted(), "the names of {host:?} are in order");
    let mut expected: Vec<Vec<u8>> = fs::read_dir(host)
        .expect("list a host folder")
        .map(|entry| entry.expect("host entry").file_name().as_bytes().to_vec())
        .chain([b".".to_vec(), b"..".to_vec()])
        .collect();
    expected.sort();
    assert_eq!(names, expected, "the names in {host:?}");

    for (name, nid, kind) in &listed {
        assert_eq!(fs.lookup(dir, name), Ok(Some(*nid)), "lookup in {host:?}");
        for missing in [[name.as_slice(), b"~"].concat(), name[..name.len() - 1].to_vec(), [b"\0", &name[..]].concat()]
        {
            if !expected.contains(&missing) {
                assert_eq!(fs.lookup(dir, &missing), Ok(None), "lookup of a missing name in {host:?}");
            }
        }
        let inode = fs.inode(*nid).expect("read an inode");
        assert_eq!(inode.nid, *nid);
        assert_eq!(inode.kind(), *kind);
        if name == b"." || name == b".." {
            assert_eq!(*kind, FileKind::Directory);
            continue;
        }
        let path = host.join(std::ffi::OsStr::from_bytes(name));
        let meta = fs::symlink_metadata(&path).expect("host metadata");
        assert_eq!(u32::from(inode.mode), meta.mode(), "mode of {path:?}");
        assert_eq!((inode.uid, inode.gid), (meta.uid(), meta.gid()), "owner of {path:?}");
        assert_eq!(inode.mtime as i64, meta.mtime(), "time of {path:?}");
        let file_type = meta.file_type();
        if file_type.is_dir() {
            compare(fs, &inode, &path, seen);
            continue;
        }
        seen.counts.files += 1;
        assert_eq!(u64::from(inode.nlink), meta.nlink(), "links of {path:?}");
        if meta.nlink() > 1 {
            let first = *seen.links.entry((meta.dev(), meta.ino())).or_insert(*nid);
            assert_eq!(first, *nid, "{path:?} is one file with its other names");
        }
        if file_type.is_symlink() {
            let target = fs::read_link(&path).expect("read a host link");
            compare_data(fs, &inode, target.as_os_str().as_bytes(), &path, seen);
        } else if file_type.is_file() {
            compare_data(fs, &inode, &fs::read(&path).expect("read a host file"), &path, seen);
        } else {
            assert_eq!(inode.size, 0);
            assert_eq!(fs.read_at(&inode, 0, &mut [0; 8]), Ok(0));
            if file_type.is_char_device() {
                // st_rdev of the host has the same bits, for numbers that fit 32 of them.
                assert_eq!(u64::from(inode.rdev), meta.rdev(), "device number of {path:?}");
            } else {
                assert_eq!(inode.rdev, 0);
            }
        }
    }
}

/// Reads a file in all ways there are and compares every byte.
fn compare_data(fs: &Erofs<'_>, inode: &Inode, expected: &[u8], path: &Path, seen: &mut Seen<'_>) {
    let len = expected.len() as u64;
    assert_eq!(inode.size, len, "size of {path:?}");
    seen.counts.compressed += u32::from(inode.is_compressed());

    let mut whole = vec![0xaa; expected.len() + 10];
    assert_eq!(fs.read_at(inode, 0, &mut whole), Ok(expected.len()), "read {path:?}");
    assert!(whole[..expected.len()] == *expected, "bytes of {path:?}");
    assert_eq!(whole[expected.len()..], [0xaa; 10], "nothing is written past the end of {path:?}");
    for past in [len, len + 1, len + 5000, u64::MAX] {
        assert_eq!(fs.read_at(inode, past, &mut whole), Ok(0));
        assert_eq!(fs.slice_at(inode, past), Ok(Some(&[][..])));
        assert_eq!(fs.page_in_place(inode, past.div_ceil(4096)), Ok(None));
        assert_eq!(fs.extent_at(inode, past).map(|extent| extent.data.len()), Ok(0));
    }
    let step = (expected.len() / 37).max(1);
    for start in (0..expected.len()).step_by(step) {
        let mut piece = [0; 5003];
        let count = fs.read_at(inode, start as u64, &mut piece).expect("read a piece");
        assert_eq!(count, piece.len().min(expected.len() - start));
        assert!(piece[..count] == expected[start..start + count], "piece at {start} of {path:?}");
    }

    let mut at = 0;
    while at < expected.len() {
        match fs.slice_at(inode, at as u64).expect("slice") {
            Some(slice) => {
                assert!(!inode.is_compressed() && !slice.is_empty());
                assert!(*slice == expected[at..at + slice.len()], "slice at {at} of {path:?}");
                at += slice.len();
            }
            None => {
                let next = (at + 1).next_multiple_of(4096).min(expected.len());
                let is_hole = expected[at..next].iter().all(|byte| *byte == 0);
                assert!(inode.is_compressed() || is_hole, "data at {at} of {path:?} is in place");
                at = next;
            }
        }
    }

    let mut at = 0;
    while at < expected.len() {
        let extent = fs.extent_at(inode, at as u64).expect("extent");
        assert!(extent.start <= at as u64 && !extent.data.is_empty());
        let start = extent.start as usize;
        assert!(extent.data == expected[start..start + extent.data.len()], "extent at {at} of {path:?}");
        let middle = start + extent.data.len() / 2;
        assert_eq!(fs.extent_at(inode, middle as u64).expect("extent").start, extent.start);
        at = start + extent.data.len();
    }

    for page in 0..len.div_ceil(4096) {
        let Some(place) = fs.page_in_place(inode, page).expect("page") else {
            continue;
        };
        seen.counts.mapped_pages += 1;
        assert_eq!(place % 4096, 0);
        assert!(!inode.is_compressed());
        let start = page as usize * 4096;
        let used = (expected.len() - start).min(4096);
        let mapped = &seen.image[place..place + 4096];
        assert!(mapped[..used] == expected[start..start + used], "page {page} of {path:?}");
        assert!(mapped[used..].iter().all(|byte| *byte == 0), "the rest of the last page of {path:?} is zero");
        seen.counts.last_pages_mapped += u32::from(used < 4096);
    }
}

/// Builds an image of the awkward tree with `options` and compares all of it.
fn check(options: &[&str]) -> Counts {
    let tree = awkward_tree();
    let image = make_image(tree, options);
    let fs = Erofs::new(&image).expect("open the image");
    let root = fs.root().expect("read the root");
    let mut seen = Seen { image: &image, ..Seen::default() };
    compare(&fs, &root, tree, &mut seen);
    assert!(seen.counts.files > 5150);
    assert!(!seen.links.is_empty());
    // Every inode number of mkfs is within its count.
    assert!(u64::from(root.ino) <= fs.inode_count());
    assert_eq!(fs.block_count(), image.len() as u64 / 4096);
    seen.counts
}

#[test]
fn plain_image_equals_the_host_tree() {
    let seen = check(&[]);
    assert_eq!(seen.compressed, 0);
    assert!(seen.mapped_pages > 8000);
}

#[test]
fn plain_image_without_inline_data_maps_every_page() {
    let seen = check(&["-Enoinline_data"]);
    assert!(seen.last_pages_mapped > 5000);
}

#[test]
fn image_with_extended_inodes_equals_the_host_tree() {
    check(&["-Eforce-inode-extended"]);
}

#[test]
fn lz4_image_equals_the_host_tree() {
    assert!(check(&["-zlz4hc"]).compressed >= 9);
}

#[test]
fn fast_lz4_image_equals_the_host_tree() {
    assert!(check(&["-zlz4"]).compressed >= 9);
}

#[test]
fn legacy_lz4_image_without_zero_padding_equals_the_host_tree() {
    assert!(check(&["-zlz4hc", "-Elegacy-compress"]).compressed >= 9);
}

#[test]
fn lz4_image_with_big_clusters_equals_the_host_tree() {
    assert!(check(&["-zlz4hc", "-C65536"]).compressed >= 9);
    assert!(check(&["-zlz4hc", "-C1048576"]).compressed >= 9);
}

#[test]
fn legacy_lz4_image_with_big_clusters_equals_the_host_tree() {
    assert!(check(&["-zlz4hc", "-C65536", "-Elegacy-compress"]).compressed >= 9);
}

#[test]
fn lz4_image_with_packed_tails_equals_the_host_tree() {
    assert!(check(&["-zlz4hc", "-Eztailpacking"]).compressed >= 9);
    assert!(check(&["-zlz4hc", "-C32768", "-Eztailpacking"]).compressed >= 9);
}

#[test]
fn lz4_image_with_short_extents_equals_the_host_tree() {
    assert!(check(&["-zlz4hc", "--max-extent-bytes=16384"]).compressed >= 9);
}

#[test]
fn mixed_image_from_compress_hints_equals_the_host_tree() {
    let scratch = Scratch::new("hints");
    let hints = scratch.0.join("hints");
    fs::write(&hints, "0 text-large\n0 sparse\n16384 zeros\n65536 mixture\n4096 .*\n").expect("write the hints");
    let option = format!("--compress-hints={}", hints.display());
    let seen = check(&["-zlz4hc", &option]);
    assert!(seen.compressed > 5);
    assert!(seen.mapped_pages > 3_000_000 / 4096);
}

#[test]
fn chunk_based_image_equals_the_host_tree() {
    let seen = check(&["--chunksize=4096"]);
    assert!(seen.mapped_pages > 1000);
}

#[test]
fn chunk_based_image_with_indexes_equals_the_host_tree() {
    let seen = check(&["--chunksize=65536", "-Eforce-chunk-indexes"]);
    assert!(seen.mapped_pages > 1000);
}

#[test]
fn consecutive_blocks_are_one_slice() {
    let tree = Scratch::new("tree");
    fs::write(tree.0.join("file"), noise(1_000_000, 9)).expect("write");
    for options in [&["-Enoinline_data"][..], &["--chunksize=4096"]] {
        let image = make_image(&tree.0, options);
        let fs = Erofs::new(&image).expect("open the image");
        let nid = fs.lookup(&fs.root().expect("root"), b"file").expect("lookup").expect("found");
        let slice = fs.slice_at(&fs.inode(nid).expect("inode"), 100).expect("slice").expect("in place");
        assert_eq!(slice.len(), 999_900, "{options:?}");
    }
}

#[test]
fn file_as_directory_is_refused() {
    let tree = Scratch::new("tree");
    fs::write(tree.0.join("file"), b"x").expect("write");
    let image = make_image(&tree.0, &[]);
    let fs = Erofs::new(&image).expect("open the image");
    let nid = fs.lookup(&fs.root().expect("root"), b"file").expect("lookup").expect("found");
    let file = fs.inode(nid).expect("inode");
    assert_eq!(fs.lookup(&file, b"x"), Err(ErofsError::NotDirectory(nid)));
    assert_eq!(fs.read_dir(&file, 0, &mut |_| true), Err(ErofsError::NotDirectory(nid)));
    assert_eq!(fs.lookup(&fs.root().expect("root"), b""), Ok(None));
    assert_eq!(fs.lookup(&fs.root().expect("root"), &[b'x'; 300]), Ok(None));
}

/// An image of one file whose superblock has no checksum, so that a test can change it.
fn open_superblock() -> Vec<u8> {
    let tree = Scratch::new("tree");
    fs::write(tree.0.join("file"), b"x").expect("write");
    make_image(&tree.0, &["-Enosbcrc"])
}

/// Changes the bytes at `offset` of the superblock and answers what opening the image says.
fn open_with(offset: usize, bytes: &[u8]) -> Result<(), ErofsError> {
    let mut image = open_superblock();
    image[1024 + offset..1024 + offset + bytes.len()].copy_from_slice(bytes);
    Erofs::new(&image)?.root().map(|_| ())
}

#[test]
fn bad_superblocks_are_named() {
    assert_eq!(open_with(0, &[0xe2, 0xe1, 0xf5, 0xe0]), Ok(()));
    assert_eq!(open_with(0, b"\x7fELF"), Err(ErofsError::Magic(u32::from_le_bytes(*b"\x7fELF"))));
    assert_eq!(open_with(12, &[9]), Err(ErofsError::BlockSize(9)));
    assert_eq!(open_with(12, &[16]), Err(ErofsError::BlockSize(16)));
    assert_eq!(open_with(90, &[2]), Err(ErofsError::BlockSize(14)));
    assert_eq!(open_with(80, &0x20u32.to_le_bytes()), Err(ErofsError::Features(0x20)));
    assert_eq!(open_with(80, &0x8000_0081u32.to_le_bytes()), Err(ErofsError::Features(0x8000_0080)));
    assert_eq!(open_with(80, &[8, 0, 0, 0, 0, 0, 3]), Err(ErofsError::ExtraDevices(3)));
    assert!(matches!(open_with(36, &[255; 4]), Err(ErofsError::Truncated { .. })));
    assert!(matches!(open_with(36, &[0; 4]), Err(ErofsError::OutsideImage(_))));
    assert!(matches!(open_with(40, &[255; 4]), Err(ErofsError::OutsideImage(_))));
    assert!(matches!(open_with(14, &[255; 2]), Err(ErofsError::OutsideImage(_))));
}

#[test]
fn short_and_empty_images_are_named() {
    let image = open_superblock();
    assert_eq!(Erofs::new(&[]).err(), Some(ErofsError::TooSmall(0)));
    assert_eq!(Erofs::new(&image[..1024]).err(), Some(ErofsError::TooSmall(1024)));
    assert_eq!(Erofs::new(&image[..4095]).err(), Some(ErofsError::TooSmall(4095)));
    let truncated = ErofsError::Truncated { expected: 4096 * 4096, found: image.len() as u64 };
    assert_eq!(open_with(36, &4096u32.to_le_bytes()), Err(truncated));
    let longer = [&image[..], &[1; 100]].concat();
    assert!(Erofs::new(&longer).is_ok(), "bytes past the file system are ignored");
}

#[test]
fn damaged_superblock_fails_its_checksum() {
    let tree = Scratch::new("tree");
    let mut image = make_image(&tree.0, &[]);
    assert!(Erofs::new(&image).is_ok());
    // The volume name: no other check looks at it.
    image[1024 + 64] ^= 1;
    assert!(matches!(Erofs::new(&image), Err(ErofsError::Checksum { .. })));
}

#[test]
fn every_error_has_a_line() {
    let errors = [
        ErofsError::TooSmall(3),
        ErofsError::Magic(4),
        ErofsError::Checksum { stored: 1, computed: 2 },
        ErofsError::Truncated { expected: 5, found: 4 },
        ErofsError::RootNotDirectory,
    ];
    for error in errors {
        let line = error.to_string();
        assert!(line.contains("EROFS") && !line.contains('\n'), "{line}");
    }
}

/// A hand-made image, for what mkfs.erofs 1.5 does not write without help: extended attributes, and
/// holes.
#[test]
fn extended_attributes_are_skipped_and_null_blocks_are_holes() {
    let mut image = vec![0; 16384];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(1024, &0xe0f5_e1e2u32.to_le_bytes());
    put(1024 + 12, &[12]);
    put(1024 + 36, &4u32.to_le_bytes());
    put(1024 + 40, &1u32.to_le_bytes());
    // Inode 1: compact, inline layout, 3 units of attributes (12 + 2 * 4 bytes), 5 bytes of data.
    put(4096 + 32, &(2u16 << 1).to_le_bytes());
    put(4096 + 34, &3u16.to_le_bytes());
    put(4096 + 36, &0o100_644u16.to_le_bytes());
    put(4096 + 40, &5u32.to_le_bytes());
    put(4096 + 64 + 20, b"hello");
    // Inode 8: compact, plain layout without blocks, 10000 bytes.
    put(4096 + 8 * 32 + 4, &0o100_644u16.to_le_bytes());
    put(4096 + 8 * 32 + 8, &10_000u32.to_le_bytes());
    put(4096 + 8 * 32 + 16, &[255; 4]);
    // Inode 16: compact, chunks of one block: block 3, hole, blocks 2 and 3; 15000 bytes.
    put(4096 + 16 * 32, &(4u16 << 1).to_le_bytes());
    put(4096 + 16 * 32 + 4, &0o100_644u16.to_le_bytes());
    put(4096 + 16 * 32 + 8, &15_000u32.to_le_bytes());
    put(4096 + 17 * 32, &[3, 0, 0, 0, 255, 255, 255, 255, 2, 0, 0, 0, 3, 0, 0, 0]);
    put(8192, &[b'2'; 4096]);
    put(12288, &[b'3'; 4096]);
    let fs = Erofs::new(&image).expect("open the image");
    let inode = fs.inode(1).expect("inode with attributes");
    assert_eq!(fs.slice_at(&inode, 0), Ok(Some(&b"hello"[..])));
    assert_eq!(fs.page_in_place(&inode, 0), Ok(None));
    let hole = fs.inode(8).expect("inode with a hole");
    let mut data = [1; 10_001];
    assert_eq!(fs.read_at(&hole, 0, &mut data), Ok(10_000));
    assert!(data[..10_000].iter().all(|byte| *byte == 0));
    assert_eq!(fs.slice_at(&hole, 4096), Ok(None));
    assert_eq!(fs.page_in_place(&hole, 0), Ok(None));
    let chunked = fs.inode(16).expect("inode with chunks");
    let mut data = [1; 20_000];
    assert_eq!(fs.read_at(&chunked, 0, &mut data), Ok(15_000));
    for (block, byte) in [b'3', 0, b'2', b'3'].iter().enumerate() {
        assert!(data[block * 4096..15_000.min(block * 4096 + 4096)].iter().all(|found| found == byte), "block {block}");
    }
    assert_eq!(fs.slice_at(&chunked, 10).map(|slice| slice.map(<[u8]>::len)), Ok(Some(4086)));
    assert_eq!(fs.slice_at(&chunked, 4096), Ok(None));
    assert_eq!(fs.slice_at(&chunked, 8192).map(|slice| slice.map(<[u8]>::len)), Ok(Some(15_000 - 8192)));
    let pages: Vec<_> = (0..4).map(|page| fs.page_in_place(&chunked, page)).collect();
    // The bytes past the end of the file in its last block are not zero here.
    assert_eq!(pages, [Ok(Some(12288)), Ok(None), Ok(Some(8192)), Ok(None)]);
    assert_eq!(fs.root().err(), Some(ErofsError::InodeMode(0)));
}

#[test]
fn reader_is_shared_between_threads() {
    fn shared<T: Send + Sync + Copy>() {}
    shared::<Erofs<'static>>();
}
