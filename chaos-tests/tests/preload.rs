//! The library that makes disks fail does so: what is not synced is lost, what is synced is not, and
//! errors come where and when they are asked for. The test starts its own binary as the process
//! under the library.
#![allow(clippy::unwrap_used, reason = "a process that fails is a failed test")]

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    os::unix::fs::FileExt as _,
    path::Path,
    process::Command,
};

use anyhow::{Result, ensure};
use heliograph_chaos_tests::faults::{CutReport, FaultyDisk, Unsynced, power, preload};
use rand::{SeedableRng as _, rngs::SmallRng};
use rustix::fs::{FallocateFlags, fallocate};

/// Tells the process under the library what to do, and where.
const DIR: &str = "HELIOGRAPH_TEST_DIR";
const PART: &str = "HELIOGRAPH_TEST_PART";
/// The very last write: so many sectors that hardly any cut leaves none or all of it.
const TORN_BYTES: usize = 1 << 20;

fn write(path: &Path, text: &str) -> File {
    let mut file = File::create(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn sync_dir(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

/// Not a test of its own: the process under the library.
#[test]
fn child() {
    let (Ok(dir), Ok(part)) = (std::env::var(DIR), std::env::var(PART)) else { return };
    let dir = Path::new(&dir);
    match part.as_str() {
        "writes" => writes(dir),
        "goes on" => {
            // What an earlier process wrote is still unsynced, and can still be synced.
            File::open(dir.join("sub/left")).unwrap().sync_all().unwrap();
        }
        "fails" => fails(dir),
        "loses" => {
            let file = write(&dir.join("lost"), "never there");
            assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
            file.sync_data().unwrap();
            sync_dir(dir);
        }
        part => panic!("{part}"),
    }
}

fn writes(dir: &Path) {
    write(&dir.join("unsynced"), "gone");
    fs::create_dir(dir.join("sub")).unwrap();
    write(&dir.join("sub/synced"), "there").sync_data().unwrap();
    write(&dir.join("sub/left"), "later");
    sync_dir(&dir.join("sub"));
    sync_dir(dir);
    // Names after the last sync of their directory.
    write(&dir.join("nameless"), "synced").sync_all().unwrap();
    fs::rename(dir.join("sub/synced"), dir.join("sub/renamed")).unwrap();
    fs::remove_file(dir.join("kept")).unwrap();
    // A synced file with a part that is not, and one that was cut.
    let file = File::options().write(true).open(dir.join("old")).unwrap();
    file.write_all_at(b"NEW", 0).unwrap();
    let file = File::options().write(true).open(dir.join("cut")).unwrap();
    file.set_len(1).unwrap();
    file.sync_all().unwrap();
    // The very last write.
    let file = File::options().write(true).open(dir.join("torn")).unwrap();
    file.write_all_at(&[b'x'; TORN_BYTES], 0).unwrap();
}

fn fails(dir: &Path) {
    let file = File::create(dir.join("file")).unwrap();
    let full = fallocate(&file, FallocateFlags::empty(), 0, 1 << 20);
    assert_eq!(full, Err(rustix::io::Errno::NOSPC), "rustix goes through the C library");
    // The first write takes a part, the next one nothing; the third is past the rule.
    assert_eq!((&file).write(b"1234").unwrap(), 2);
    assert_eq!((&file).write(b"34").unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!((&file).write(b"34").unwrap(), 2);
    assert_eq!(rustix::fs::statvfs(dir).unwrap().f_bavail, 0);
    let read_only = File::create(dir.join("sub/new")).unwrap_err();
    assert_eq!(read_only.kind(), ErrorKind::ReadOnlyFilesystem);
    assert!(File::open(dir.join("sub/old")).is_ok(), "reading works");
    let read_only = fs::rename(dir.join("sub/old"), dir.join("sub/other")).unwrap_err();
    assert_eq!(read_only.kind(), ErrorKind::ReadOnlyFilesystem);
}

/// Runs a part under the library.
fn run(disk: &FaultyDisk, part: &str) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--exact", "child", "--nocapture"]).envs(disk.environment(7));
    command.env("LD_PRELOAD", preload::library()?);
    let status = command.env(DIR, &disk.data).env(PART, part).status()?;
    ensure!(status.success(), "{part}: {status}");
    Ok(())
}

fn disk(base: &Path) -> Result<FaultyDisk> {
    let disk = FaultyDisk::new(&base.join("data"), base)?;
    for (name, text) in [("kept", "kept"), ("old", "old"), ("cut", "cut"), ("torn", "")] {
        write(&disk.data.join(name), text);
    }
    Ok(disk)
}

fn text(disk: &FaultyDisk, name: &str) -> Option<String> {
    fs::read_to_string(disk.data.join(name)).ok()
}

#[test]
fn a_power_cut_leaves_what_was_synced_and_nothing_else() -> Result<()> {
    let base = tempfile::tempdir()?;
    let disk = disk(base.path())?;
    run(&disk, "writes")?;
    let report = power::cut(&disk, Unsynced::Lost, &mut SmallRng::seed_from_u64(1))?;
    assert_eq!(report, CutReport { unsynced_bytes: 4 + 5 + 3 + TORN_BYTES as u64, kept_bytes: 0 });
    let is = |name, content: Option<&str>| assert_eq!(text(&disk, name).as_deref(), content);
    is("unsynced", Some(""));
    is("sub/synced", Some("there"));
    is("sub/renamed", None);
    is("sub/left", Some(""));
    is("nameless", None);
    is("kept", Some("kept"));
    is("old", Some("old"));
    is("cut", Some("c"));
    is("torn", Some(""));
    // The library starts again on what is left.
    ensure!(fs::read_dir(&disk.shadow)?.next().is_none());
    Ok(())
}

#[test]
fn what_was_not_synced_may_be_torn_or_kept_and_outlives_a_process() -> Result<()> {
    let base = tempfile::tempdir()?;
    let torn = disk(base.path())?;
    run(&torn, "writes")?;
    run(&torn, "goes on")?;
    let mut rng = SmallRng::seed_from_u64(3);
    let report = power::cut(&torn, Unsynced::Torn, &mut rng)?;
    let left = text(&torn, "torn").unwrap_or_default().len();
    ensure!(left > 0 && left < TORN_BYTES && left.is_multiple_of(512), "{left} bytes");
    ensure!(report.kept_bytes == left as u64, "{report:?}");
    assert_eq!(text(&torn, "sub/left").as_deref(), Some("later"));
    assert_eq!(text(&torn, "old").as_deref(), Some("old"));

    let base = tempfile::tempdir()?;
    let kept = disk(base.path())?;
    run(&kept, "writes")?;
    power::cut(&kept, Unsynced::Kept, &mut rng)?;
    assert_eq!(text(&kept, "unsynced").as_deref(), Some("gone"));
    assert_eq!(text(&kept, "nameless").as_deref(), Some("synced"));
    assert_eq!(text(&kept, "sub/renamed").as_deref(), Some("there"));
    assert_eq!(text(&kept, "kept"), None);
    assert_eq!(text(&kept, "old").as_deref(), Some("NEW"));
    Ok(())
}

#[test]
fn errors_come_where_they_are_asked_for() -> Result<()> {
    let base = tempfile::tempdir()?;
    let disk = disk(base.path())?;
    fs::create_dir(disk.data.join("sub"))?;
    write(&disk.data.join("sub/old"), "old");
    disk.fail(
        "allocate file ENOSPC\nwrite file ENOSPC count=2\nspace * free=0\nmodify sub/* EROFS",
    )?;
    run(&disk, "fails")
}

#[test]
fn what_a_failed_sync_lost_no_later_sync_brings_back() -> Result<()> {
    let base = tempfile::tempdir()?;
    let disk = disk(base.path())?;
    disk.fail("sync lost EIO count=1")?;
    run(&disk, "loses")?;
    power::cut(&disk, Unsynced::Lost, &mut SmallRng::seed_from_u64(1))?;
    // Its length may be known; its content is not there.
    let left = text(&disk, "lost").unwrap_or_default();
    ensure!(left.bytes().all(|byte| byte == 0), "{left}");
    Ok(())
}
