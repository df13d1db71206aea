//! Everything that a TAP without offload leaves undone, done here: one frame with a request becomes ordinary frames.
//!
//! For a kernel that refuses super-frames at run time, or an operator who has switched the offload off.

use super::{
    carve::{Carver, Checksums},
    checksum,
    superframe::{FrameError, GsoRequest, Transport},
    vnet_hdr::{Gso, VnetHeader},
};

/// Hands the ordinary frames that `frame` stands for to `deliver`, in order, with finished checksums.
///
/// `vnet` has come from `translate::rebuild` or from carving, so it agrees with the frame. A checksum is finished in
/// place; segments are made in `scratch`, which needs the room of one. Nothing has been delivered on error, unless
/// `scratch` is too short.
pub fn segment(
    vnet: &VnetHeader,
    frame: &mut [u8],
    scratch: &mut [u8],
    mut deliver: impl FnMut(&[u8]),
) -> Result<(), FrameError> {
    let transport = match vnet.gso {
        Gso::None => {
            if vnet.needs_csum {
                checksum::finish(frame, vnet.csum_start, vnet.csum_offset)?;
            }
            deliver(frame);
            return Ok(());
        }
        Gso::TcpV4 | Gso::TcpV6 => Transport::Tcp,
        Gso::UdpL4 => Transport::Udp,
    };
    let carver = Carver::new(GsoRequest { transport, gso_size: vnet.gso_size }, frame, frame.len())?;
    for segment in 0..carver.segment_count() {
        let (_, len) = carver.carve(&(segment..segment + 1), Checksums::Finished, frame, scratch)?;
        deliver(&scratch[..len]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::offload::reference::{Check, any_spec};

    fn segmented(vnet: &VnetHeader, mut frame: Vec<u8>) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        segment(vnet, &mut frame, &mut [0; 10_000], |frame| frames.push(frame.to_vec())).unwrap();
        frames
    }

    proptest! {
        #[test]
        fn ordinary_frames_are_those_of_the_reference(spec in any_spec()) {
            let count = spec.segment_count();
            let finished = |segment: usize| spec.frame(&(segment..segment + 1), Check::Finished);
            let expected: Vec<_> = (0..count).map(finished).collect();
            prop_assert_eq!(segmented(&spec.vnet(&(0..count)), spec.superframe()), expected);
            let partial = spec.frame(&(0..1), Check::Partial);
            prop_assert_eq!(segmented(&spec.vnet(&(0..1)), partial), vec![finished(0)]);
            prop_assert_eq!(segmented(&VnetHeader::default(), finished(0)), vec![finished(0)]);
        }
    }

    #[test]
    fn without_room_for_a_segment_it_fails() {
        let spec = crate::offload::reference::small_tcp();
        let vnet = spec.vnet(&(0..3));
        let failed = segment(&vnet, &mut spec.superframe(), &mut [0; 100], |_| panic!("nothing fits"));
        assert_eq!(failed, Err(FrameError::FrameLen));
    }
}
