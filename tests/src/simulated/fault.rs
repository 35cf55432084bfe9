//! The ways in which a member may be sick.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result};

/// What a cluster does instead of answering as it should; begins with new answers and, within a second, in open watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// It is well.
    #[default]
    None,
    /// It takes requests and never answers them; open answers pause.
    Hang,
    /// It sends a byte a second.
    Trickle,
    /// It breaks its answers off in the middle, by an error of the connection.
    Reset,
    /// It ends watches in the middle of a frame as if that were their end.
    HalfFrame,
    /// One object of each page of a list, and every frame of a watch, has bytes that are no UTF-8.
    InvalidUtf8,
    /// There is one more object, of 50 MB.
    Huge,
    /// Another cluster answers in its place: other objects, at versions that are all lower.
    OtherCluster,
    /// It answers with the objects of another kind.
    WrongKind,
    /// It answers 200 and nothing else.
    Empty,
    /// It answers 200 and HTML.
    Nonsense,
    /// It refuses every watch with 410, by status and by event in turns.
    Expired,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::None,
        Self::Hang,
        Self::Trickle,
        Self::Reset,
        Self::HalfFrame,
        Self::InvalidUtf8,
        Self::Huge,
        Self::OtherCluster,
        Self::WrongKind,
        Self::Empty,
        Self::Nonsense,
        Self::Expired,
    ];

    /// Whether readers are told what isn't so, and must forget it when it is over.
    pub(crate) fn lies(self) -> bool {
        matches!(self, Self::Huge | Self::OtherCluster | Self::WrongKind)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::None => "none",
            Self::Hang => "hang",
            Self::Trickle => "trickle",
            Self::Reset => "reset",
            Self::HalfFrame => "half-frame",
            Self::InvalidUtf8 => "invalid-utf8",
            Self::Huge => "huge",
            Self::OtherCluster => "other-cluster",
            Self::WrongKind => "wrong-kind",
            Self::Empty => "empty",
            Self::Nonsense => "nonsense",
            Self::Expired => "expired",
        })
    }
}

impl FromStr for Fault {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|fault| fault.to_string() == name);
        found.with_context(|| format!("there is no fault {name:?}"))
    }
}
