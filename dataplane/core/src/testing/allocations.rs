//! An allocator that counts, for the test programs that show what takes no memory.
//!
//! A program installs it with `#[global_allocator] static ALLOCATOR: Counting = Counting;`. Allocations are counted
//! per thread, so tests beside each other do not disturb the count.
//!
//! NOTE: what the AEAD's C code might take is not seen here.

#![expect(unsafe_code, reason = "an allocator that counts has to be one, and hands all work to the system's")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, with a count of each thread's allocations.
#[derive(Debug)]
pub struct Counting;

/// How often this thread has allocated so far; none when [`Counting`] is not the allocator.
pub fn count() -> u64 {
    COUNT.get()
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches a plain cell of this thread only.
// `realloc` and `alloc_zeroed` are the trait's own, which come down to these two.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same there.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and the memory came from there.
        unsafe { System.dealloc(memory, layout) }
    }
}
