//! Between the virtio header of a TAP and the kind of a record: the sender's [`classify`], the receiver's [`rebuild`].
//!
//! | the kernel gives                               | the frame travels as                  |
//! |------------------------------------------------|---------------------------------------|
//! | no request                                     | [`FrameKind::Complete`]               |
//! | TCP or UDP with a partial checksum             | [`FrameKind::PartialChecksum`]        |
//! | another partial checksum (SCTP, inner tunnel)  | [`FrameKind::Complete`], finished here |
//! | a super-frame that agrees with its headers     | [`FrameKind::Gso`]                    |
//! | a super-frame that does not                    | nothing: dropped with the reason      |

use super::{
    checksum,
    superframe::{FrameError, GsoRequest, Layout, Transport},
    vnet_hdr::{Gso, VnetHeader},
};
use crate::{
    limits::{MAX_FRAME_LEN, MIN_FRAME_LEN},
    wire::ethernet::ETHERNET_HEADER_LEN,
};

/// What is still to be done to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Nothing.
    Complete,
    /// Its TCP or UDP checksum holds only the sum of the pseudo header.
    PartialChecksum,
    /// The same, and it stands for several segments.
    Gso(GsoRequest),
}

/// The sender's half: how this frame, read from the TAP with this header, travels.
///
/// Finishes a checksum in place when the receiver could not find it by itself.
pub fn classify(vnet: &VnetHeader, frame: &mut [u8]) -> Result<FrameKind, FrameError> {
    check_len(frame)?;
    let transport = match vnet.gso {
        Gso::None if !vnet.needs_csum => return Ok(FrameKind::Complete),
        Gso::None => return classify_checksum(vnet, frame),
        Gso::TcpV4 | Gso::TcpV6 => Transport::Tcp,
        Gso::UdpL4 => Transport::Udp,
    };
    let layout = Layout::parse(frame, frame.len())?;
    let request = GsoRequest { transport, gso_size: vnet.gso_size };
    if !vnet.needs_csum || !names_checksum(vnet, &layout) {
        return Err(FrameError::Contradiction);
    }
    if frame.len() - layout.payload <= usize::from(vnet.gso_size) {
        // One segment: the kernel refuses to segment it, and there is nothing to segment.
        return Ok(FrameKind::PartialChecksum);
    }
    layout.check_gso(request, frame, frame.len())?;
    if layout.gso_header(vnet.gso_size, frame).gso != vnet.gso {
        return Err(FrameError::Contradiction);
    }
    Ok(FrameKind::Gso(request))
}

/// The receiver's half: the header to write a frame of this kind to the TAP with.
pub fn rebuild(kind: FrameKind, frame: &[u8]) -> Result<VnetHeader, FrameError> {
    check_len(frame)?;
    match kind {
        FrameKind::Complete => Ok(VnetHeader::default()),
        FrameKind::PartialChecksum => Ok(Layout::parse(frame, frame.len())?.checksum_header()),
        FrameKind::Gso(request) => {
            let layout = Layout::parse(frame, frame.len())?;
            layout.check_gso(request, frame, frame.len())?;
            Ok(layout.gso_header(request.gso_size, frame))
        }
    }
}

fn classify_checksum(vnet: &VnetHeader, frame: &mut [u8]) -> Result<FrameKind, FrameError> {
    if Layout::parse(frame, frame.len()).is_ok_and(|layout| names_checksum(vnet, &layout)) {
        return Ok(FrameKind::PartialChecksum);
    }
    // The addresses have been looked up already, and nothing that a container asks for may change them.
    if usize::from(vnet.csum_start) < ETHERNET_HEADER_LEN {
        return Err(FrameError::Contradiction);
    }
    checksum::finish(frame, vnet.csum_start, vnet.csum_offset)?;
    Ok(FrameKind::Complete)
}

fn names_checksum(vnet: &VnetHeader, layout: &Layout) -> bool {
    usize::from(vnet.csum_start) == layout.l4 && vnet.csum_offset == layout.csum_offset()
}

fn check_len(frame: &[u8]) -> Result<(), FrameError> {
    if (MIN_FRAME_LEN..=MAX_FRAME_LEN).contains(&frame.len()) { Ok(()) } else { Err(FrameError::FrameLen) }
}
