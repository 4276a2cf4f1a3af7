//! A virtual machine with an NVDIMM that runs one job: QEMU with its software emulation.
//!
//! The memory is a file of this machine that QEMU maps shared: what the guest has stored is there, flushed or not,
//! also when the machine is killed. What the guest had in other memory is lost then: so a kill is a power failure
//! with eADR.
//!
//! The guest sees all files of this machine, read-only, and one folder that both write (`Machine::share`): `job` is
//! what is run,
//! `output` what it says, `status` how it ended.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Whence, lseek};
use tempfile::TempDir;

use crate::mode::{Alignment, Mode};
use crate::verdict::{End, Lost, NotJudged};

/// The namespace's own block before its bytes.
pub(crate) const NAMESPACE_START: u64 = 2 << 20;

/// How long a machine may take to unmount and power off when its job is done.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(30);
/// A boot takes 10 s where nobody else works, minutes on a machine under load.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// Boots that are tried: the emulation of two processors that change the kernel's code fails now and then (an invalid
/// instruction where there is none).
const MAX_BOOTS: u32 = 3;
/// Between two looks at the guest's files.
const LOOK: Duration = Duration::from_millis(20);

/// How long the threads of a machine may take to stop.
const FREEZE_LIMIT: Duration = Duration::from_secs(60);
/// What is copied of an image, or left out where nothing is in it, at once.
const PIECE: usize = 1 << 16;

const KERNEL_OPTIONS: &str = "console=ttyS0 loglevel=4 panic=-1 nokaslr mitigations=off nopti \
    init_on_alloc=0 random.trust_cpu=on tsc=reliable no_timer_check audit=0 apparmor=0 i8042.noaux i8042.nokbd";

/// What a machine is made of, apart from its persistent memory.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Board {
    /// The folder that tests/vm/kernel has filled
    #[arg(long, default_value = "target/vm")]
    kernel: PathBuf,
    /// The processor, as QEMU names it. With `erms` or `fsrm` the kernel copies by `rep movsb`, which the emulation
    /// does byte by byte: no word of a direct read would be stored in one piece
    #[arg(long, default_value = "max,la57=off,erms=off,fsrm=off")]
    processor: String,
    #[arg(skip)]
    pub(crate) end: End,
}

/// The file behind an NVDIMM.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    path: PathBuf,
    mode: Mode,
    /// Bytes that a new namespace is mapped by at least.
    alignment: u64,
    /// No namespace has been made on it.
    is_fresh: bool,
}

impl Image {
    /// A new one in `directory`, whose namespace is to be mapped by `alignment`.
    ///
    /// # Errors
    /// What making a file gives.
    pub(crate) fn new(directory: &Path, mode: Mode, alignment: Alignment) -> anyhow::Result<Self> {
        let image = Self {
            path: directory.join("nvdimm"),
            mode,
            alignment: alignment.bytes(),
            is_fresh: true,
        };
        image.empty()?;
        Ok(image)
    }

    fn empty(&self) -> anyhow::Result<()> {
        let file = File::create(&self.path).with_context(|| format!("make {}", self.path.display()))?;
        Ok(file.set_len(self.mode.bytes() + NAMESPACE_START)?)
    }

    /// Copies it as it is, into `to`.
    ///
    /// # Errors
    /// What reading and writing give.
    pub(crate) fn copy(&self, to: &Path) -> anyhow::Result<Self> {
        copy_from(&self.path, 0, to)?;
        Ok(Self {
            path: to.to_owned(),
            mode: self.mode,
            alignment: self.alignment,
            is_fresh: self.is_fresh,
        })
    }

    /// Copies the bytes of the device into `to`, a new file.
    ///
    /// # Errors
    /// What reading and writing give.
    pub(crate) fn copy_device(&self, to: &Path) -> anyhow::Result<()> {
        copy_from(&self.path, NAMESPACE_START, to)
    }

    /// Removes a copy.
    ///
    /// # Errors
    /// What removing gives.
    pub(crate) fn remove(self) -> anyhow::Result<()> {
        Ok(fs::remove_file(&self.path)?)
    }
}

/// Copies what follows `start`, and leaves holes where nothing is: images lie in memory.
///
/// # Errors
/// What reading and writing give.
pub(crate) fn copy_from(path: &Path, start: u64, to: &Path) -> anyhow::Result<()> {
    let image = File::open(path)?;
    let copy = File::create(to)?;
    copy.set_len(image.metadata()?.len() - start)?;
    let mut piece = vec![0; PIECE];
    let mut at = start;
    loop {
        match lseek(&image, i64::try_from(at)?, Whence::SeekData) {
            Ok(data) => at = u64::try_from(data)?,
            Err(Errno::ENXIO) => return Ok(()),
            Err(errno) => return Err(errno).context("look for data of an image"),
        }
        let len = image.read_at(&mut piece, at)?;
        if piece[..len].iter().any(|byte| *byte != 0) {
            copy.write_all_at(&piece[..len], at - start)?;
        }
        at += u64::try_from(len)?;
    }
}

/// A machine that runs; it is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Machine {
    qemu: Child,
    share: TempDir,
    /// How much of the output has been shown.
    shown: u64,
    end: End,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Machine {
    /// Boots with `image` as its persistent memory, and starts the shell's script `job`. The filesystems in `others`,
    /// which are copies, are mounted as `/run/pmem1` and so on.
    ///
    /// # Errors
    /// QEMU cannot be started, or no boot comes to its end.
    pub(crate) fn start(
        board: &Board,
        image: &mut Image,
        others: &[Image],
        job: &str,
    ) -> anyhow::Result<Self> {
        let mut attempt = 1;
        loop {
            let mut machine = Self::power_on(board, image, others, job)?;
            match machine.wait_for_file("started") {
                Ok(()) => {
                    image.is_fresh = false;
                    return Ok(machine);
                }
                Err(error) if attempt < MAX_BOOTS && board.end.ensure_time().is_ok() => {
                    println!("boot {attempt} of {MAX_BOOTS}: {error}");
                }
                // What makes it ready does not: neither the emulation's matter nor one of time.
                Err(error) if machine.has_said("vm: failed:") => {
                    return Err(error.context("no machine is ready"));
                }
                // Nothing of ours has run in it.
                Err(error) => return Err(NotJudged(format!("no machine has booted: {error}")).into()),
            }
            drop(machine);
            if image.is_fresh {
                image.empty()?;
            }
            attempt += 1;
        }
    }

    fn power_on(board: &Board, image: &Image, others: &[Image], job: &str) -> anyhow::Result<Self> {
        let place = image.path.parent().context("an image in no folder")?;
        let share = tempfile::tempdir_in(place).context("make a folder to share")?;
        let conf = format!(
            "MODE={} FRESH={} ALIGN={} MKFS='{}' OTHERS={}\n",
            image.mode.name(),
            u8::from(image.is_fresh),
            image.alignment,
            image.mode.mkfs(),
            others.len()
        );
        fs::write(share.path().join("conf"), conf)?;
        let directory = std::env::current_dir()?;
        let head = format!(
            "export {} TMPDIR=/dev/shm HOME=/dev/shm PATH=/usr/sbin:/sbin:/usr/bin:/bin RUST_BACKTRACE=0\ncd '{}'\n",
            image.mode.variable(),
            directory.display()
        );
        fs::write(share.path().join("job"), head + job)?;
        let console = File::create(share.path().join("console"))?;
        let images: Vec<&Image> = std::iter::once(image).chain(others).collect();
        let qemu = qemu(board, &images, share.path())?
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            .spawn()
            .context("start qemu-system-x86_64")?;
        Ok(Self {
            qemu,
            share,
            shown: 0,
            end: board.end,
        })
    }

    /// A file that both see; inside, it is in `/run/share`.
    pub(crate) fn share(&self, name: &str) -> PathBuf {
        self.share.path().join(name)
    }

    /// Waits until a file of the share is there, for the time of a boot.
    ///
    /// # Errors
    /// The machine has ended, or it takes too long.
    pub(crate) fn wait_for_file(&mut self, name: &str) -> anyhow::Result<()> {
        let begin = Instant::now();
        while !self.share(name).exists() {
            if self.qemu.try_wait()?.is_some() && !self.share(name).exists() {
                return Err(self.ended(&format!("without {name}")));
            }
            self.end.ensure_time()?;
            ensure!(
                begin.elapsed() < BOOT_LIMIT,
                NotJudged(format!("no {name} within {BOOT_LIMIT:?}:\n{}", self.last_words()))
            );
            sleep(LOOK);
        }
        Ok(())
    }

    /// Waits until the job has ended, and gives its exit status. Its output goes to ours as it comes.
    ///
    /// # Errors
    /// It takes longer than `limit`, or the machine ended without it.
    pub(crate) fn finish(mut self, limit: Duration) -> anyhow::Result<i32> {
        let begin = Instant::now();
        loop {
            let is_over = self.qemu.try_wait()?.is_some();
            self.show_output()?;
            if let Some(status) = self.job_status() {
                self.wait_for_power_off()?;
                self.show_output()?;
                return Ok(status);
            }
            if is_over {
                return Err(self.ended("before its job"));
            }
            self.end.ensure_time()?;
            let is_slow = begin.elapsed() >= limit;
            ensure!(
                !is_slow,
                NotJudged(format!("the job takes longer than {limit:?}"))
            );
            sleep(LOOK * 5);
        }
    }

    /// The job's exit status, when it has ended.
    fn job_status(&self) -> Option<i32> {
        let line = fs::read_to_string(self.share("status")).ok()?;
        line.strip_suffix('\n')?.parse().ok()
    }

    /// Lets the machine unmount what it has mounted. The job is judged already, so that it may fail in this.
    fn wait_for_power_off(&mut self) -> anyhow::Result<()> {
        let begin = Instant::now();
        while self.qemu.try_wait()?.is_none() && begin.elapsed() < POWER_OFF_LIMIT {
            sleep(LOOK);
        }
        Ok(())
    }

    /// That it runs, and its job, which does not end by itself.
    ///
    /// # Errors
    /// One of them has ended, and what was said last; or the time is up.
    pub(crate) fn ensure_runs(&mut self) -> anyhow::Result<()> {
        let ended = self.qemu.try_wait()?;
        if let Some(status) = self.job_status() {
            let words = self.last_words();
            return Err(Lost(format!("the job ended by itself with {status}:\n{words}")).into());
        }
        if let Some(status) = ended {
            return Err(self.ended(&format!("by itself, {status}")));
        }
        self.end.ensure_time()
    }

    /// Why it has ended: a kernel that panics is the emulation's matter, as nothing of ours runs in it.
    fn ended(&self, how: &str) -> anyhow::Error {
        let words = format!("the machine ended {how}:\n{}", self.last_words());
        if self.has_said("Kernel panic") {
            NotJudged(words).into()
        } else {
            anyhow!(words)
        }
    }

    fn has_said(&self, words: &str) -> bool {
        let console = fs::read(self.share("console")).unwrap_or_default();
        String::from_utf8_lossy(&console).contains(words)
    }

    /// Takes the power away.
    ///
    /// # Errors
    /// It had ended already, before its time.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.ensure_runs()?;
        self.qemu.kill().context("kill the machine")?;
        self.qemu.wait().context("wait for the machine")?;
        Ok(())
    }

    /// Stops the machine where it is: what its memory holds then is what a kill would leave.
    ///
    /// # Errors
    /// It had ended already, or does not stop.
    pub(crate) fn freeze(&mut self) -> anyhow::Result<()> {
        self.ensure_runs()?;
        kill(self.id()?, Signal::SIGSTOP).context("freeze the machine")?;
        let begin = Instant::now();
        while !is_stopped(self.qemu.id())? {
            ensure!(
                begin.elapsed() < FREEZE_LIMIT,
                "the machine does not stop within {FREEZE_LIMIT:?}"
            );
            sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Lets a frozen machine go on.
    ///
    /// # Errors
    /// What the signal gives.
    pub(crate) fn thaw(&self) -> anyhow::Result<()> {
        kill(self.id()?, Signal::SIGCONT).context("let the machine go on")
    }

    fn id(&self) -> anyhow::Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.qemu.id())?))
    }

    fn show_output(&mut self) -> anyhow::Result<()> {
        // The shell makes it when the job is about to start.
        let Ok(mut output) = File::open(self.share("output")) else {
            return Ok(());
        };
        output.seek(SeekFrom::Start(self.shown))?;
        let mut new = Vec::new();
        output.read_to_end(&mut new)?;
        std::io::stdout().write_all(&new)?;
        std::io::stdout().flush()?;
        self.shown += u64::try_from(new.len())?;
        Ok(())
    }

    /// The end of what the machine's console and its job have said.
    fn last_words(&self) -> String {
        let lines = ["console", "output"].map(|name| {
            let bytes = fs::read(self.share(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(20)..].join("\n")
        });
        lines.join("\n")
    }
}

/// Whether all threads of a process have stopped.
fn is_stopped(process: u32) -> anyhow::Result<bool> {
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may end meanwhile.
        let Ok(stat) = fs::read_to_string(thread?.path().join("stat")) else {
            continue;
        };
        // Behind the name, which may hold anything.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        if state != Some('T') {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The command line of a machine.
fn qemu(board: &Board, images: &[&Image], share: &Path) -> anyhow::Result<Command> {
    let folder = |path: &Path, tag: &str, more: &str| {
        format!(
            "local,path={},mount_tag={tag},security_model=none,multidevs=remap{more}",
            path.display()
        )
    };
    // So that what is measured elsewhere on this machine is not disturbed more than needed, and no machine outlives us.
    let mut command = Command::new("nice");
    command
        .args(["-n", "10", "setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args(["-accel", "tcg,thread=multi"])
        .args(["-machine", "q35,nvdimm=on,nvdimm-persistence=mem-ctrl,usb=off"])
        .args(["-cpu", &board.processor, "-smp", "2", "-m"])
        .arg(format!("1536M,slots={},maxmem=32G", images.len() + 1))
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-serial",
            "stdio",
        ]);
    for (number, image) in images.iter().enumerate() {
        let bytes = fs::metadata(&image.path)?.len();
        command
            .arg("-object")
            .arg(format!(
                "memory-backend-file,id=pmem{number},share=on,mem-path={},size={bytes},align=2M",
                image.path.display()
            ))
            .arg("-device")
            .arg(format!("nvdimm,id=nvdimm{number},memdev=pmem{number}"));
    }
    command
        .arg("-kernel")
        .arg(board.kernel.join("vmlinux"))
        .arg("-initrd")
        .arg(board.kernel.join("initrd"))
        .args(["-append", KERNEL_OPTIONS])
        .arg("-virtfs")
        .arg(folder(Path::new("/"), "host", ",readonly=on"))
        .arg("-virtfs")
        .arg(folder(share, "share", ""));
    Ok(command)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_copy_of_an_image_has_its_bytes_and_its_holes() {
        let directory = tempfile::tempdir().unwrap();
        let image = Image::new(directory.path(), Mode::Devdax, Alignment::Huge).unwrap();
        let len = Mode::Devdax.bytes() + NAMESPACE_START;
        let piece = u64::try_from(PIECE).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&image.path).unwrap();
        for at in [
            0,
            piece - 1,
            NAMESPACE_START,
            NAMESPACE_START + 3 * piece,
            len - 1,
        ] {
            file.write_all_at(&[7], at).unwrap();
        }
        let bytes = fs::read(&image.path).unwrap();
        let copy = image.copy(&directory.path().join("copy")).unwrap();
        assert!(fs::read(&copy.path).unwrap() == bytes);
        assert!(fs::metadata(&copy.path).unwrap().blocks() < 8 * 1024);
        image.copy_device(&copy.path).unwrap();
        assert!(fs::read(&copy.path).unwrap() == bytes[2 << 20..]);
    }

    #[test]
    fn each_image_is_an_nvdimm_in_the_order_of_its_address() {
        let directory = tempfile::tempdir().unwrap();
        let image = Image::new(directory.path(), Mode::FsdaxXfs, Alignment::Huge).unwrap();
        let copy = image.copy(&directory.path().join("copy")).unwrap();
        let board = Board {
            kernel: PathBuf::from("kernel"),
            processor: "max".to_owned(),
            end: End::default(),
        };
        let command = qemu(&board, &[&image, &copy], directory.path()).unwrap();
        let words: Vec<&str> = command.get_args().filter_map(|word| word.to_str()).collect();
        let files: Vec<&str> = words
            .iter()
            .filter(|word| word.starts_with("memory-backend-file"))
            .map(|word| word.split(['=', ',']).nth(6).unwrap())
            .collect();
        assert_eq!(
            files.iter().map(Path::new).collect::<Vec<_>>(),
            [&image.path, &copy.path]
        );
        assert!(words.contains(&"nvdimm,id=nvdimm1,memdev=pmem1"));
        assert!(words.contains(&"1536M,slots=3,maxmem=32G"), "{words:?}");
    }

    #[test]
    fn a_frozen_machine_does_nothing_until_it_is_thawed() {
        let share = tempfile::tempdir().unwrap();
        let ticks = share.path().join("ticks");
        let script = format!("while :; do echo >>'{}'; done", ticks.display());
        let qemu = Command::new("sh").args(["-c", &script]).spawn().unwrap();
        let mut machine = Machine {
            qemu,
            share,
            shown: 0,
            end: End::default(),
        };
        machine.wait_for_file("ticks").unwrap();
        let len = || fs::metadata(&ticks).unwrap().len();
        machine.freeze().unwrap();
        let frozen = len();
        sleep(Duration::from_millis(50));
        assert_eq!(len(), frozen);
        machine.thaw().unwrap();
        let begin = Instant::now();
        while len() == frozen {
            assert!(begin.elapsed() < Duration::from_secs(60));
        }
        machine.kill().unwrap();
        assert!(machine.freeze().is_err());
    }
}
