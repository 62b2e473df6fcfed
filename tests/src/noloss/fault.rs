//! What can go wrong, and how often each of it is drawn.

use std::fmt;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::site::ROLES;

/// The farthest that a clock is stepped, in seconds, in either direction.
const STEP_SECONDS: i64 = 60;

/// A kind of faults, as the command line names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Kill,
    Stop,
    Restart,
    Replace,
    Partition,
    DiskFull,
    PowerCut,
    Clock,
}

/// Name, meaning, and how often it is drawn before all others have been.
const TABLE: [(Kind, &str, &str, usize); 8] = [
    (Kind::Kill, "kill", "kill -9 of a role or a server", 3),
    (Kind::Stop, "stop", "SIGSTOP of a role or a server, for up to 14 seconds", 3),
    (Kind::Restart, "restart", "SIGTERM and a new start of a role", 1),
    (Kind::Replace, "replace", "a server comes back with an empty store", 1),
    (Kind::Partition, "partition", "servers from each other, or a role from servers", 3),
    (Kind::DiskFull, "disk-full", "the disk of a server has no room", 1),
    (Kind::PowerCut, "power-cut", "all servers lose what they have not synced", 1),
    (Kind::Clock, "clock", "the clock of a role steps by up to a minute, and back", 1),
];

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Kill,
        Self::Stop,
        Self::Restart,
        Self::Replace,
        Self::Partition,
        Self::DiskFull,
        Self::PowerCut,
        Self::Clock,
    ];

    fn row(self) -> (&'static str, &'static str, usize) {
        let row = TABLE.iter().find(|row| row.0 == self);
        row.map_or(("", "", 0), |row| (row.1, row.2, row.3))
    }

    pub fn name(self) -> &'static str {
        self.row().0
    }

    pub fn about(self) -> &'static str {
        self.row().1
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A fault and whom it hits: roles and servers by their place in the site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    KillRole(usize),
    StopRole(usize),
    RestartRole(usize),
    /// By so many seconds.
    StepClock(usize, i64),
    CutRole(usize, Vec<usize>),
    KillServer(usize),
    StopServer(usize),
    ReplaceServer(usize),
    CutServers(Vec<(usize, usize)>),
    FillDisk(usize),
    PowerCut,
}

/// How many there are of each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) roles: usize,
    pub(super) servers: usize,
}

impl Fault {
    pub(super) fn draw(kind: Kind, shape: Shape, rng: &mut StdRng) -> Self {
        let (role, server) = (rng.random_range(0..shape.roles), rng.random_range(0..shape.servers));
        let hits_role = rng.random::<bool>();
        match (kind, hits_role) {
            (Kind::Kill, true) => Self::KillRole(role),
            (Kind::Kill, false) => Self::KillServer(server),
            (Kind::Stop, true) => Self::StopRole(role),
            (Kind::Stop, false) => Self::StopServer(server),
            (Kind::Restart, _) => Self::RestartRole(role),
            (Kind::Replace, _) => Self::ReplaceServer(server),
            (Kind::Partition, true) => Self::CutRole(role, some_of(shape.servers, rng)),
            (Kind::Partition, false) => {
                let others = (0..shape.servers).filter(|other| *other != server);
                let mut pairs: Vec<_> = others.map(|other| (server, other)).collect();
                // From all others, or from one of them.
                pairs.truncate(rng.random_range(1..=pairs.len()));
                Self::CutServers(pairs)
            }
            (Kind::DiskFull, _) => Self::FillDisk(server),
            (Kind::PowerCut, _) => Self::PowerCut,
            (Kind::Clock, ahead) => {
                let seconds = rng.random_range(5..=STEP_SECONDS);
                Self::StepClock(role, if ahead { seconds } else { -seconds })
            }
        }
    }

    /// One that may be added while another is on: of a role that the other does not hit.
    pub(super) fn draw_second(
        &self,
        kinds: &[Kind],
        shape: Shape,
        rng: &mut StdRng,
    ) -> Option<Self> {
        let kind = kinds[rng.random_range(0..kinds.len())];
        let second = Self::draw(kind, shape, rng);
        let role = second.role()?;
        (self.role() != Some(role)).then_some(second)
    }

    /// Whom it hits; `None` of what hits servers.
    fn role(&self) -> Option<usize> {
        match self {
            Self::KillRole(role)
            | Self::StopRole(role)
            | Self::RestartRole(role)
            | Self::StepClock(role, _)
            | Self::CutRole(role, _) => Some(*role),
            Self::KillServer(_)
            | Self::StopServer(_)
            | Self::ReplaceServer(_)
            | Self::CutServers(_)
            | Self::FillDisk(_)
            | Self::PowerCut => None,
        }
    }

    pub(super) fn hits_servers(&self) -> bool {
        self.role().is_none()
    }

    /// How long it lasts until it is mended.
    pub(super) fn hold(&self, rng: &mut StdRng) -> Duration {
        let millis = match self {
            Self::RestartRole(_) | Self::PowerCut => 0..=1,
            Self::KillRole(_) | Self::KillServer(_) | Self::ReplaceServer(_) => 500..=5_000,
            Self::StopRole(_) | Self::StopServer(_) => 2_000..=14_000,
            Self::CutRole(..) | Self::CutServers(_) => 3_000..=15_000,
            Self::StepClock(..) | Self::FillDisk(_) => 3_000..=8_000,
        };
        Duration::from_millis(rng.random_range(millis))
    }

    /// Whether what a worker does may be done twice, SMTP's own window being open: an outcome may
    /// be known to one side only. Who is told to stop finishes first, and clocks decide nothing
    /// that a lease depends on.
    pub(super) fn explains_duplicates(&self) -> bool {
        let is_harmless = matches!(self, Self::RestartRole(_) | Self::StepClock(..));
        !is_harmless && self.role().is_none_or(|role| ROLES[role] == "worker")
    }

    /// Whether connections to this role end without a reply.
    pub(super) fn cuts_off_clients_of(&self, role: usize) -> bool {
        *self == Self::KillRole(role)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillRole(role) => write!(f, "kill {}", named(*role)),
            Self::StopRole(role) => write!(f, "stop {}", named(*role)),
            Self::RestartRole(role) => write!(f, "restart {}", named(*role)),
            Self::StepClock(role, by) => write!(f, "clock of {} by {by:+} s", named(*role)),
            Self::CutRole(role, from) => {
                write!(f, "partition: {} from servers {from:?}", named(*role))
            }
            Self::KillServer(server) => write!(f, "kill server {server}"),
            Self::StopServer(server) => write!(f, "stop server {server}"),
            Self::ReplaceServer(server) => write!(f, "replace server {server} by an empty one"),
            Self::CutServers(pairs) => write!(f, "partition: servers {pairs:?}"),
            Self::FillDisk(server) => write!(f, "disk-full: server {server}"),
            Self::PowerCut => write!(f, "power-cut: all servers"),
        }
    }
}

fn named(role: usize) -> String {
    format!("{} {role}", ROLES[role])
}

/// At least one of `0..count`.
fn some_of(count: usize, rng: &mut StdRng) -> Vec<usize> {
    let mut all: Vec<usize> = (0..count).collect();
    all.shuffle(rng);
    all.truncate(rng.random_range(1..=count));
    all
}

/// Kinds in an order of chance, each as often as the table says before it starts over.
pub(super) struct Deck {
    kinds: Vec<Kind>,
    left: Vec<Kind>,
}

impl Deck {
    /// # Panics
    /// When there are no kinds.
    pub(super) fn new(kinds: &[Kind]) -> Self {
        assert!(!kinds.is_empty(), "a run has a kind of faults");
        Self { kinds: kinds.to_vec(), left: Vec::new() }
    }

    pub(super) fn draw(&mut self, rng: &mut StdRng) -> Kind {
        if self.left.is_empty() {
            let often = |kind: &Kind| std::iter::repeat_n(*kind, kind.row().2);
            self.left = self.kinds.iter().flat_map(often).collect();
            self.left.shuffle(rng);
        }
        self.left.pop().unwrap_or(self.kinds[0])
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn every_kind_is_in_the_table_and_drawn() {
        let mut deck = Deck::new(&Kind::ALL);
        let mut rng = StdRng::seed_from_u64(1);
        let rounds: usize = TABLE.iter().map(|row| row.3).sum();
        let drawn: Vec<Kind> = (0..rounds).map(|_| deck.draw(&mut rng)).collect();
        for kind in Kind::ALL {
            assert!(drawn.contains(&kind), "{kind:?}");
            assert_eq!(Kind::parse(kind.name()), Some(kind));
        }
    }
}
