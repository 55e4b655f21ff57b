//! Mutation fuzzing of the EROFS reader: images of every layout, damaged at random, must give
//! answers or errors, but no panic, no endless loop and no bytes from outside the image.
//!
//! The seed is fixed, so a failure comes again; `PITON_FUZZ_ITERATIONS` sets how many images are
//! tried.

mod images;
mod mutation;

use std::fs;
use std::time::Instant;

use images::{Scratch, make_image, mixture, noise, small_tree, text};
use klib::erofs::{Erofs, FileKind, Inode};
use mutation::{Random, check_time, damage, iterations};

/// How often each kind of answer came, to show that the loop reaches what it is meant to reach.
#[derive(Debug, Default)]
struct Tally {
    images: u64,
    opened: u64,
    inodes: u64,
    good_reads: u64,
    bad_reads: u64,
}

/// Uses every call on one inode.
fn exercise(fs: &Erofs<'_>, image: &[u8], inode: &Inode, random: &mut Random, tally: &mut Tally) {
    tally.inodes += 1;
    let mut buffer = vec![0; 20_000];
    let span = inode.size.max(1);
    for attempt in 0..4 {
        let offset = match attempt {
            0 => 0,
            1 => inode.size.saturating_sub(1 + random.next() % 5000),
            _ => random.next() % span,
        };
        let wanted = random.below(buffer.len() + 1);
        match fs.read_at(inode, offset, &mut buffer[..wanted]) {
            Ok(count) => {
                let left = inode.size.saturating_sub(offset);
                assert_eq!(count as u64, left.min(wanted as u64), "a read is short at the end only");
                tally.good_reads += 1;
            }
            Err(_) => tally.bad_reads += 1,
        }
        if let Ok(Some(slice)) = fs.slice_at(inode, offset) {
            assert!(slice.len() as u64 <= inode.size.saturating_sub(offset));
            assert_eq!(slice.is_empty(), offset >= inode.size);
        }
        if let Ok(Some(place)) = fs.page_in_place(inode, offset / 4096) {
            assert!(place % 4096 == 0 && place + 4096 <= image.len());
        }
        if let Ok(extent) = fs.extent_at(inode, offset)
            && offset < inode.size
        {
            assert!(extent.start <= offset && offset < extent.start + extent.data.len() as u64);
            assert!(extent.start + extent.data.len() as u64 <= inode.size);
        }
    }
}

/// Walks an image, as far as it goes, within a budget, from its root and the inodes `first` on.
fn walk(image: &[u8], first: &[u64], random: &mut Random, tally: &mut Tally) {
    tally.images += 1;
    let fs = match Erofs::new(image) {
        Ok(fs) => fs,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    tally.opened += 1;
    let mut queue: Vec<u64> = (0..3).map(|_| random.next() % (image.len() as u64 / 32 + 2)).collect();
    queue.push(random.next());
    if let Ok(root) = fs.root() {
        queue.push(root.nid);
    }
    queue.extend_from_slice(first);
    for _ in 0..40 {
        let Some(nid) = queue.pop() else { break };
        let Ok(inode) = fs.inode(nid) else { continue };
        exercise(&fs, image, &inode, random, tally);
        let mut names: Vec<Vec<u8>> = vec![b"text4097".to_vec(), vec![random.next() as u8; random.below(300)]];
        let mut listed = 0;
        let cookie = if random.below(2) == 0 { 0 } else { random.next() % 200 };
        let _ = fs.read_dir(&inode, cookie, &mut |entry| {
            assert!(!entry.name.is_empty() && entry.name.len() <= 255);
            listed += 1;
            if names.len() < 12 && random.below(4) == 0 {
                names.push(entry.name.to_vec());
            }
            if random.below(3) == 0 {
                queue.push(entry.nid);
            }
            listed < 400
        });
        for name in names {
            if let Ok(Some(found)) = fs.lookup(&inode, &name) {
                queue.push(found);
            }
        }
    }
}

/// Numbers of all inodes of an undamaged image.
fn all_inodes(fs: &Erofs<'_>) -> Vec<u64> {
    let mut found = vec![fs.root().expect("root").nid];
    let mut next = 0;
    while next < found.len() {
        let inode = fs.inode(found[next]).expect("inode");
        next += 1;
        if inode.kind() == FileKind::Directory {
            fs.read_dir(&inode, 0, &mut |entry| {
                if !found.contains(&entry.nid) {
                    found.push(entry.nid);
                }
                true
            })
            .expect("list");
        }
    }
    found
}

/// Damages images made with `options` and walks them.
fn fuzz(seed: u64, options: &[&str]) {
    let tree = Scratch::new("fuzz-tree");
    small_tree(&tree.0);
    fs::write(tree.0.join("large"), [text(300_000), noise(30_000, 5), mixture(100_000)].concat()).expect("write");
    let all = [&["-Enosbcrc"], options].concat();
    let original = make_image(&tree.0, &all);
    let mut random = Random::new(seed);
    let mut tally = Tally::default();
    let mut inodes = all_inodes(&Erofs::new(&original).expect("open the image"));
    walk(&original, &inodes, &mut random, &mut tally);
    assert_eq!(tally.bad_reads, 0, "the image is good before it is damaged: {tally:?}");

    // Files with chunk tables and compression indexes get their share among the many tiny ones.
    let fs = Erofs::new(&original).expect("open the image");
    let large: Vec<u64> =
        inodes.iter().copied().filter(|nid| fs.inode(*nid).is_ok_and(|inode| inode.size >= 8192)).collect();
    inodes.extend(large.repeat(20));

    let metadata_block = u32::from_le_bytes(original[1064..1068].try_into().expect("4 bytes")) as usize;
    let used: Vec<usize> = (0..original.len()).filter(|at| original[*at] != 0).collect();
    let mut image = Vec::new();
    let mut damaged = Vec::new();
    for iteration in 0..iterations(600) {
        image.clear();
        image.extend_from_slice(&original);
        damaged.clear();
        damage(&mut image, &mut random, &mut |random| match random.below(8) {
            0 => 1024 + random.below(128),
            1 => used[random.below(used.len())],
            2 => random.below(3 * 4096),
            _ => {
                // An inode, and what is behind it: inline data, a chunk table, a compression
                // index.
                let nid = inodes[random.below(inodes.len())];
                damaged.push(nid);
                let reach = if random.below(2) == 0 { 32 } else { 200 };
                metadata_block * 4096 + nid as usize * 32 + random.below(reach)
            }
        });
        let started = Instant::now();
        walk(&image, &damaged, &mut random, &mut tally);
        check_time(started, || format!("iteration {iteration} of {options:?}"));
    }
    println!("{options:?}: {tally:?}");
    assert!(tally.opened * 2 > tally.images, "most images open: {tally:?}");
    assert!(tally.good_reads > tally.bad_reads && tally.inodes > tally.images, "{tally:?}");
}

#[test]
fn damaged_plain_images_are_survived() {
    fuzz(1, &[]);
    fuzz(2, &["-Enoinline_data"]);
}

#[test]
fn damaged_chunk_based_images_are_survived() {
    fuzz(3, &["--chunksize=4096"]);
    fuzz(4, &["--chunksize=16384", "-Eforce-chunk-indexes"]);
}

#[test]
fn damaged_compact_lz4_images_are_survived() {
    fuzz(5, &["-zlz4hc"]);
    fuzz(6, &["-zlz4hc", "-C65536"]);
}

#[test]
fn damaged_legacy_lz4_images_are_survived() {
    fuzz(7, &["-zlz4hc", "-Elegacy-compress"]);
    fuzz(8, &["-zlz4hc", "-C65536", "-Elegacy-compress"]);
}

#[test]
fn damaged_tail_packed_images_are_survived() {
    fuzz(9, &["-zlz4hc", "-Eztailpacking"]);
}
