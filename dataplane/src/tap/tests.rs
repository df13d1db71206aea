//! Behaviour of real TAP devices, each test in a network namespace of its own.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{queue::GSO_TYPE_OFFSET, *};
use crate::{
    netlink::Netlink,
    sys::socket::{self, MessageOut},
    testing::{close, in_namespace},
};

const NETWORK: &str = "192.0.2.1/24";
const SEGMENT_LEN: u16 = 1000;
const SEGMENT_COUNT: usize = 20;

/// A TAP that is up, with an address.
fn open_up(name: &str, switch: Switch) -> Tap {
    let tap = Tap::open(name, switch).unwrap();
    let mut netlink = Netlink::open().unwrap();
    let index = netlink.link(name).unwrap().unwrap().index;
    netlink.set_up(index).unwrap();
    netlink.add_address(index, NETWORK.parse().unwrap()).unwrap();
    tap
}

/// Length of the longest frame, vnet header not counted, when one send of many segments goes to the TAP.
fn longest_frame_of_a_train(tap: &Tap) -> usize {
    let sender = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    sender.set_broadcast(true).unwrap();
    let bytes = vec![7; usize::from(SEGMENT_LEN) * SEGMENT_COUNT];
    let to: SocketAddr = "192.0.2.255:9".parse().unwrap();
    // A device that has just been re-opened drops what it gets until its carrier is noticed.
    for _attempt in 0..100 {
        let train = MessageOut::train(to, &bytes, SEGMENT_LEN);
        socket::send(sender.as_fd(), train).unwrap();
        let longest = longest_frame_waiting(tap);
        if longest > usize::from(SEGMENT_LEN) {
            return longest;
        }
        let mut fds = [PollFd::new(tap, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 })).unwrap();
    }
    panic!("no frame has come");
}

/// Length of the longest frame that the device has for us, vnet header not counted.
fn longest_frame_waiting(tap: &Tap) -> usize {
    let mut buffer = vec![0; 70_000];
    let mut longest = 0;
    while let Some(len) = tap.first().read_frame(&mut [0; VNET_HEADER_LEN], &mut buffer).unwrap() {
        longest = longest.max(len);
    }
    longest
}

#[test]
fn a_super_frame_arrives_whole() {
    in_namespace(|| {
        let tap = open_up("tap0", Switch::Auto);
        assert_eq!(tap.offload(), TapOffload::TcpUdp, "Linux 6.2 or newer is needed for this test");
        assert_eq!(tap.refusals().describe(), None);
        assert!(longest_frame_of_a_train(&tap) > usize::from(SEGMENT_LEN) * SEGMENT_COUNT);
    });
}

#[test]
fn without_offload_frames_have_the_size_of_the_mtu() {
    in_namespace(|| {
        let tap = open_up("tap0", Switch::Off);
        let longest = longest_frame_of_a_train(&tap);
        assert!((usize::from(SEGMENT_LEN)..1514).contains(&longest), "{longest}");
    });
}

#[test]
fn a_persistent_tap_has_its_offloads_again_after_a_process_without_them() {
    in_namespace(|| {
        let tap = open_up("tap0", Switch::Auto);
        tap.persist().unwrap();
        close(|| drop(tap));
        close(|| drop(Tap::open("tap0", Switch::Off).unwrap()));
        let tap = Tap::open("tap0", Switch::Auto).unwrap();
        assert!(longest_frame_of_a_train(&tap) > usize::from(SEGMENT_LEN) * SEGMENT_COUNT);
    });
}

#[test]
fn a_tap_that_is_not_persistent_goes_with_its_process() {
    in_namespace(|| {
        close(|| drop(Tap::open("tap0", Switch::Auto).unwrap()));
        assert!(Netlink::open().unwrap().link("tap0").unwrap().is_none());
    });
}

#[test]
fn a_second_opener_is_told_that_the_device_is_in_use() {
    in_namespace(|| {
        let _first = Tap::open("tap0", Switch::Auto).unwrap();
        let error = Tap::open("tap0", Switch::Auto).unwrap_err();
        assert!(matches!(error, TapError::Busy(_)), "{error}");
    });
}

#[test]
fn a_device_that_is_no_tap_is_refused() {
    in_namespace(|| {
        let error = Tap::open("lo", Switch::Auto).unwrap_err();
        assert!(matches!(error, TapError::OtherDevice(_)), "{error}");
    });
}

#[test]
fn a_super_frame_that_makes_no_sense_is_told_apart_from_a_bad_frame() {
    in_namespace(|| {
        let tap = open_up("tap0", Switch::Auto);
        let mut vnet = [0; VNET_HEADER_LEN];
        assert_eq!(tap.first().write_frame(&vnet, &[0; 60]), Ok(()));
        assert_eq!(tap.first().write_frame(&vnet, &[0; 3]), Err(TapWriteError::Refused));
        // A GSO type that does not exist.
        vnet[GSO_TYPE_OFFSET] = 0x7e;
        assert_eq!(tap.first().write_frame(&vnet, &[0; 60]), Err(TapWriteError::GsoRefused));
    });
}

#[test]
fn a_deleted_device_is_told_apart() {
    in_namespace(|| {
        let tap = open_up("tap0", Switch::Auto);
        let mut netlink = Netlink::open().unwrap();
        let index = netlink.link("tap0").unwrap().unwrap().index;
        netlink.delete_link(index).unwrap();
        assert!(tap.first().read_frame(&mut [0; VNET_HEADER_LEN], &mut [0; 2000]).is_err());
        assert_eq!(tap.first().write_frame(&[0; VNET_HEADER_LEN], &[0; 60]), Err(TapWriteError::Gone));
        let mut fds = [PollFd::new(&tap, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&Timespec { tv_sec: 5, tv_nsec: 0 })), Ok(1), "a worker must wake up");
    });
}
