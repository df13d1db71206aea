//! Which unfinished frames the kernel may hand us: a ladder of wishes, from all to nothing.
//!
//! Kernels refuse unknown bits as a whole (`EINVAL`), so the first rung that is accepted is the best one. USO came
//! with Linux 6.2 and both of its bits have to be set together. `TSO_ECN` saves frames with CWR from being segmented
//! before they reach us.

use std::io;

use weaved_api::Switch;

use crate::feature::Finding;

const TUN_F_CSUM: u32 = 0x01;
const TUN_F_TSO4: u32 = 0x02;
const TUN_F_TSO6: u32 = 0x04;
const TUN_F_TSO_ECN: u32 = 0x08;
const TUN_F_USO4: u32 = 0x20;
const TUN_F_USO6: u32 = 0x40;

/// What the TAP hands over without finishing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TapOffload {
    /// Finished frames of at most the MTU.
    None,
    /// TCP super-frames, and frames without a checksum.
    Tcp,
    /// TCP super-frames also where they carry CWR, and frames without a checksum.
    TcpEcn,
    /// TCP and UDP super-frames, and frames without a checksum.
    TcpUdp,
}

/// The rungs of the ladder, best first.
const LADDER: [TapOffload; 4] = [TapOffload::TcpUdp, TapOffload::TcpEcn, TapOffload::Tcp, TapOffload::None];

impl TapOffload {
    /// True when super-frames pass whole.
    pub fn has_super_frames(self) -> bool {
        self != Self::None
    }

    /// What the answer of the kernel means.
    pub(super) fn finding(self) -> Finding {
        match self {
            Self::None => Finding::fails("the kernel refuses offload on TAP devices"),
            Self::Tcp | Self::TcpEcn => Finding::works("super-frames of TCP; UDP needs Linux 6.2 or newer"),
            Self::TcpUdp => Finding::works("super-frames of TCP and UDP"),
        }
    }

    fn bits(self) -> u32 {
        let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
        match self {
            Self::None => 0,
            Self::Tcp => tcp,
            Self::TcpEcn => tcp | TUN_F_TSO_ECN,
            Self::TcpUdp => tcp | TUN_F_TSO_ECN | TUN_F_USO4 | TUN_F_USO6,
        }
    }
}

/// Climbs down until the kernel agrees. None when the operator insists on offload and there is none.
pub(super) fn negotiate(switch: Switch, mut ask: impl FnMut(u32) -> io::Result<()>) -> Option<TapOffload> {
    let rungs = match switch {
        Switch::Auto => &LADDER[..],
        Switch::On => &LADDER[..3],
        Switch::Off => &LADDER[3..],
    };
    let agreed = rungs.iter().copied().find(|rung| ask(rung.bits()).is_ok());
    // A kernel that does not even know the request is one without offload.
    agreed.or_else(|| (switch != Switch::On).then_some(TapOffload::None))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel that knows these bits and no others.
    fn kernel(known: u32) -> impl FnMut(u32) -> io::Result<()> {
        move |bits| if bits & !known == 0 { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    #[test]
    fn the_best_rung_that_the_kernel_knows_is_taken() {
        for (known, expected) in
            [(0x7f, TapOffload::TcpUdp), (0x1f, TapOffload::TcpEcn), (0x07, TapOffload::Tcp), (0, TapOffload::None)]
        {
            assert_eq!(negotiate(Switch::Auto, kernel(known)), Some(expected), "{known:#x}");
        }
    }

    #[test]
    fn the_switch_is_obeyed() {
        assert_eq!(negotiate(Switch::Off, kernel(0x7f)), Some(TapOffload::None));
        assert_eq!(negotiate(Switch::On, kernel(0)), None);
    }
}
