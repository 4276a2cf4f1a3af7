//! What a mount does, and how it is written after `-o` (mount(8), mount.fuse(8)).
//!
//! An option that is unknown, or has a value that it cannot have, is an error that names it: nothing is ignored that
//! would change what the mount does. What mount(8) and fstab(5) say to each other (`auto`, `_netdev`, `x-...`) is
//! passed over.

use std::time::Duration;

use udax::DaxMode;

use crate::identity::{IdMap, IdRange};

/// As long as the kernel can be told: nobody but the kernel changes a mounted pool, so nothing that it knows becomes
/// wrong.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Threads, at most: each has a buffer for the largest request.
const MAX_THREADS: usize = 64;

/// How a pool is mounted.
#[derive(Clone, PartialEq, Debug)]
pub struct Options {
    /// Change nothing.
    pub read_only: bool,
    /// With `read_only`: show a pool that was not closed cleanly, and leave it so.
    pub no_recovery: bool,
    /// Do not renew access times.
    pub no_atime: bool,
    /// Listing a directory never renews its access time.
    pub no_directory_atime: bool,
    /// Each write is followed by what `fsync` does, times included.
    pub sync: bool,
    /// Let fences msync, where the pool is no persistent memory.
    pub msync: bool,
    /// Take all page faults of the pool when it is opened.
    pub populate: bool,
    /// Which files are reached by memory access, and which through the library's page cache.
    pub dax: DaxMode,
    /// Bytes of that cache; 0: as the library says.
    pub cache_bytes: u64,
    /// Where the pool's data device is; else where it was when the pool was made.
    pub data: Option<std::path::PathBuf>,
    /// Who may look: all users, or only the one who mounted.
    pub audience: Audience,
    /// Whether device nodes are devices, set-id bits and executables work; as given, in the kernel's words.
    pub flags: Vec<KernelFlag>,
    /// Users as they are shown and given.
    pub users: IdMap,
    /// Groups as they are shown and given.
    pub groups: IdMap,
    /// How long the kernel may remember names, and that there are none.
    pub entry_timeout: Duration,
    /// How long the kernel may remember attributes.
    pub attr_timeout: Duration,
    /// Threads that serve; 0: one for each processor.
    pub threads: usize,
    /// What is logged, in the words of `tracing_subscriber::EnvFilter`.
    pub log_level: Option<String>,
    /// Where metrics go to: a file, or a loopback address with its port.
    pub metrics: Option<String>,
    /// Where the log goes to; without one to standard error, which a daemon has only until it is ready.
    pub log_file: Option<std::path::PathBuf>,
}

/// Who may use the mount; permission bits and access lists hold for all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audience {
    /// Everybody if root mounts, else only who mounts: what the kernel allows without configuration.
    ByMounter,
    /// Everybody (`allow_other`).
    All,
    /// Who mounts, and root (`allow_root`).
    MounterAndRoot,
    /// Only who mounts (`noallow_other`).
    Mounter,
}

/// A flag of mount(2) that the kernel obeys by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KernelFlag {
    /// Set-id bits do not work.
    NoSuid,
    /// Device nodes are no devices.
    NoDev,
    /// Nothing can be executed.
    NoExec,
    /// Changes of directories are synchronous: they always are.
    DirSync,
}

/// Why options were refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OptionError {
    /// There is no such option.
    #[error("unknown mount option '{0}'; 'udax mount --help' lists them")]
    Unknown(String),
    /// The value is none that the option can have.
    #[error("mount option '{option}': {expected}")]
    Value {
        /// As it was given.
        option: String,
        /// What it can have.
        expected: &'static str,
    },
}

impl Default for Options {
    fn default() -> Self {
        Self {
            read_only: false,
            no_recovery: false,
            no_atime: false,
            no_directory_atime: false,
            sync: false,
            msync: false,
            populate: false,
            dax: DaxMode::Always,
            data: None,
            cache_bytes: 0,
            audience: Audience::ByMounter,
            flags: Vec::new(),
            users: IdMap::default(),
            groups: IdMap::default(),
            entry_timeout: FOREVER,
            attr_timeout: FOREVER,
            threads: 0,
            log_level: None,
            metrics: None,
            log_file: None,
        }
    }
}

impl Options {
    /// Reads lists of options, separated by commas; later ones win where they contradict earlier ones of the same
    /// kind.
    ///
    /// # Errors
    /// The first option that is not understood.
    pub fn parse<'o>(lists: impl IntoIterator<Item = &'o str>) -> Result<Self, OptionError> {
        let mut options = Self::default();
        for option in lists.into_iter().flat_map(|list| list.split(',')) {
            if option.is_empty() {
                continue;
            }
            match option.split_once('=') {
                Some((name, value)) => options.set_value(option, name, value)?,
                None => options.set_word(option)?,
            }
        }
        if options.no_recovery && !options.read_only {
            return Err(OptionError::Value {
                option: "norecovery".to_owned(),
                expected: "needs 'ro': what was replayed in memory only must not be changed",
            });
        }
        Ok(options)
    }

    fn set_word(&mut self, word: &str) -> Result<(), OptionError> {
        match word {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "norecovery" | "noload" => self.no_recovery = true,
            "noatime" => self.no_atime = true,
            // Access times are renewed when they are a day old or not after the last change.
            "atime" | "relatime" | "norelatime" => self.no_atime = false,
            // What is done anyhow: times alone are written later.
            "lazytime" | "nolazytime" => {}
            "diratime" => self.no_directory_atime = false,
            "nodiratime" => self.no_directory_atime = true,
            "sync" => self.sync = true,
            "async" => self.sync = false,
            "msync" => self.msync = true,
            "populate" => self.populate = true,
            "dax" => self.dax = DaxMode::Always,
            "allow_other" => self.audience = Audience::All,
            "allow_root" => self.audience = Audience::MounterAndRoot,
            "noallow_other" => self.audience = Audience::Mounter,
            "nosuid" => self.set_flag(KernelFlag::NoSuid),
            "suid" => self.clear_flag(KernelFlag::NoSuid),
            "nodev" => self.set_flag(KernelFlag::NoDev),
            "dev" => self.clear_flag(KernelFlag::NoDev),
            "noexec" => self.set_flag(KernelFlag::NoExec),
            "exec" => self.clear_flag(KernelFlag::NoExec),
            "dirsync" => self.set_flag(KernelFlag::DirSync),
            "defaults" | "default_permissions" | "auto" | "noauto" | "nofail" | "_netdev" => {}
            // What lets users mount: mount(8) has decided, and these are what it adds.
            "user" | "users" | "owner" | "group" => {
                for flag in [KernelFlag::NoSuid, KernelFlag::NoDev, KernelFlag::NoExec] {
                    self.set_flag(flag);
                }
            }
            "nouser" | "nousers" | "noowner" | "nogroup" => {}
            "remount" => {
                return Err(OptionError::Value {
                    option: word.to_owned(),
                    expected: "the kernel does that alone; give mount(8) -i, as in 'mount -i -o remount,ro DIRECTORY'",
                });
            }
            word if is_for_others(word) => {}
            unknown => return Err(OptionError::Unknown(unknown.to_owned())),
        }
        Ok(())
    }

    fn set_value(&mut self, option: &str, name: &str, value: &str) -> Result<(), OptionError> {
        let wrong = |expected| OptionError::Value {
            option: option.to_owned(),
            expected,
        };
        match name {
            "dax" => match value {
                "always" => self.dax = DaxMode::Always,
                "inode" => self.dax = DaxMode::Inode,
                "never" => self.dax = DaxMode::Never,
                _ => return Err(wrong("needs 'always', 'inode' or 'never'")),
            },
            "cache" => {
                let mib: Option<u64> = value.parse().ok().filter(|mib| *mib > 0);
                let bytes = mib.and_then(|mib| mib.checked_mul(1 << 20));
                self.cache_bytes = bytes.ok_or_else(|| wrong("needs a number of MiB"))?;
            }
            "data" if !value.is_empty() => self.data = Some(value.into()),
            "uidmap" | "gidmap" => {
                let range = IdRange::parse(value)
                    .ok_or_else(|| wrong("needs POOL:MOUNT:COUNT, for example 0:100000:65536"))?;
                let map = if name == "uidmap" {
                    &mut self.users
                } else {
                    &mut self.groups
                };
                map.add(range)
                    .map_err(|_| wrong("overlaps an earlier range, or there are too many"))?;
            }
            "entry_timeout" => self.entry_timeout = seconds(value).ok_or_else(|| wrong("needs seconds"))?,
            "attr_timeout" => self.attr_timeout = seconds(value).ok_or_else(|| wrong("needs seconds"))?,
            "threads" => {
                self.threads = value
                    .parse()
                    .ok()
                    .filter(|threads| (1..=MAX_THREADS).contains(threads))
                    .ok_or_else(|| wrong("needs a number from 1 to 64"))?;
            }
            "log" if !value.is_empty() => self.log_level = Some(value.to_owned()),
            "log_file" if !value.is_empty() => self.log_file = Some(value.into()),
            "metrics" if !value.is_empty() => self.metrics = Some(value.to_owned()),
            "data" | "log" | "log_file" | "metrics" => return Err(wrong("needs a value")),
            "fsname" | "subtype" | "comment" => {}
            name if is_for_others(name) => {}
            _ if Self::default().set_word(name).is_ok() => return Err(wrong("takes no value")),
            _ => return Err(OptionError::Unknown(name.to_owned())),
        }
        Ok(())
    }

    fn set_flag(&mut self, flag: KernelFlag) {
        if !self.flags.contains(&flag) {
            self.flags.push(flag);
        }
    }

    fn clear_flag(&mut self, flag: KernelFlag) {
        self.flags.retain(|set| *set != flag);
    }
}

/// Options of other programs that read fstab.
fn is_for_others(name: &str) -> bool {
    name.starts_with("x-") || name.starts_with("X-")
}

fn seconds(value: &str) -> Option<Duration> {
    let seconds: f64 = value.parse().ok()?;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .map(|time| time.min(FOREVER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_options_win() {
        let options = Options::parse(["ro,noatime,nosuid", "rw,relatime,suid"]).expect("known options");
        assert_eq!(options, Options::default());
    }

    #[test]
    fn options_of_a_line_of_fstab_are_understood() {
        let list = "defaults,noauto,nofail,_netdev,x-systemd.automount,ro,norecovery,dax=inode,cache=64,threads=3,\
                    uidmap=0:1000:1,attr_timeout=1.5";
        let options = Options::parse([list]).expect("known options");
        assert!(options.read_only && options.no_recovery);
        assert_eq!(options.threads, 3);
        assert_eq!((options.dax, options.cache_bytes), (DaxMode::Inode, 64 << 20));
        assert_eq!(options.attr_timeout, Duration::from_millis(1500));
        assert_eq!(options.users.to_mount(0), Some(1000));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (list, named) in [
            ("rw,frobnicate", "frobnicate"),
            ("color=red", "color"),
            ("threads=0", "threads=0"),
            ("threads=many", "threads=many"),
            ("dax=perhaps", "dax=perhaps"),
            ("cache=0", "cache=0"),
            ("uidmap=1:2", "uidmap=1:2"),
            ("uidmap=0:0:10,uidmap=5:50:1", "uidmap=5:50:1"),
            ("entry_timeout=-1", "entry_timeout=-1"),
            ("norecovery", "norecovery"),
            ("log=", "log="),
            ("metrics=", "metrics="),
            ("ro=1", "takes no value"),
            ("data=", "needs a value"),
            ("uidmap=0:4294967295:1", "POOL:MOUNT:COUNT"),
            ("remount,ro", "mount -i -o remount"),
        ] {
            let error = Options::parse([list]).expect_err(list).to_string();
            assert!(error.contains(named), "{list}: {error}");
        }
        // As mount(8) has it elsewhere: nothing is to be synced.
        assert!(Options::parse(["ro,sync"]).is_ok_and(|options| options.read_only));
    }

    #[test]
    fn words_about_times_that_change_nothing_leave_what_was_asked_for() {
        for list in [
            "noatime,nodiratime",
            "noatime,lazytime",
            "noatime,diratime,nolazytime",
            "relatime,noatime",
        ] {
            assert!(
                Options::parse([list]).is_ok_and(|options| options.no_atime),
                "{list}"
            );
        }
        assert!(Options::parse(["noatime,relatime"]).is_ok_and(|options| !options.no_atime));
    }

    proptest::proptest! {
        /// Whatever is given: options, or an error that names one of the words.
        #[test]
        fn any_list_is_understood_or_its_word_is_named(
            list in "((ro|dax|cache|threads|uidmap|gidmap|attr_timeout|data|x-a|user|log)?(=?[0-9:.+,k-]{0,9}|=inode)?,?){0,6}",
        ) {
            if let Err(error) = Options::parse([list.as_str()]) {
                let told = error.to_string();
                let name = |word: &str| word.split('=').next().unwrap_or_default().to_owned();
                let mut words = list.split(',').filter(|word| !word.is_empty());
                let is_named = words.any(|word| told.contains(&format!("'{}", name(word))));
                assert!(is_named, "{list:?}: {told}");
            }
        }
    }
}
